"""What SFT reads: samples of one or more datasets, with their lengths known and their codes left on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from lm_stage.data.sequences import TASKS, SequenceBuilder, TrainingSequence
from lm_stage.text.parts import CodeGrid
from lm_stage.text.templates import CHAT, default_question
from shared.codec import Codec
from shared.dataset.conversations import Conversation, Turn, without_media_marks
from shared.dataset.dataset import Dataset
from shared.dataset.readers import RowReader
from shared.dataset.rows import KINDS
from shared.errors import DatasetError, RefusedInput, UsageError
from shared.storage.digests import digest_of
from shared.storage.paths import as_path


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of a mixture: `PATH[,task=image|video|understand|text][,weight=W]`.

    In every epoch a sample is seen `weight` times: 0.5 takes every second one, 2 takes each twice.
    """

    path: str
    task: str = "image"
    weight: float = 1.0

    @property
    def is_drawn(self) -> bool:
        """Whether an image or a video is the answer, not the question."""
        return self.task in ("image", "video")

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises UsageError for what is not of the form above."""
        path, *settings = text.split(",")
        fields: dict[str, Any] = dict(setting.partition("=")[::2] for setting in settings)
        if not path or set(fields) - {"task", "weight"}:
            raise UsageError(f"dataset {text!r}: expected PATH[,task={'|'.join(TASKS)}][,weight=NUMBER]")
        try:
            source = cls(path, **{**fields, "weight": float(fields.get("weight", 1))})
        except ValueError:
            raise UsageError(f"dataset {text!r}: weight: expected a number") from None
        if source.task not in TASKS or not 0 < source.weight < float("inf"):
            raise UsageError(f"dataset {text!r}: expected a task of {', '.join(TASKS)} and a weight above 0")
        return source


class Samples(Protocol):
    """The samples of one source. `lengths` is their number of tokens, `bare_lengths` that without a caption."""

    keys: list[str]
    lengths: np.ndarray
    bare_lengths: np.ndarray
    fingerprint: str
    codec: Codec | None
    without_text: Sequence[str]  # keys of rows without a caption or an answer

    @property
    def has_videos(self) -> bool:
        """Whether the form of videos decides anything."""

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        """Raises DatasetError if what is on disk is damaged."""


def open_samples(source: Source, builder: SequenceBuilder, keeps_damaged: bool = False) -> Samples:
    """Raises UsageError or DatasetError, naming the path, if it is no dataset, not complete or empty.

    With `keeps_damaged` a part that does not match its checksum, but can be read, is met when a sample of it is; what
    its columns say only gives lengths.
    """
    path = as_path(source.path)
    if path.suffix == ".jsonl" and path.is_file():
        if source.task != "text":
            raise UsageError(f"{path}: a .jsonl holds text: give it task=text")
        samples: Samples = TextSamples(path, builder)
    elif source.is_drawn:
        samples = CaptionSamples(path, builder, source.task, keeps_damaged)
    else:
        samples = (AnswerSamples if source.task == "understand" else AnswerTexts)(path, builder, keeps_damaged)
    if not samples.keys:
        raise UsageError(f"{path}: holds no sample for task {source.task}")
    return samples


class DatasetSamples:
    """Rows of some kinds of a codes or sequence dataset; the texts are encoded once, here."""

    def __init__(self, path: Path, builder: SequenceBuilder, kinds: Sequence[str], keeps_damaged: bool):
        dataset = Dataset.open(path)
        plan = dataset.plan()
        if missing := dataset.missing_units(plan):
            raise DatasetError(f"{path}: {len(missing)} of {len(plan)} units are missing: finish the job that makes it")
        self.builder = builder
        self.codec: Codec | None = plan.settings.codec
        self.fingerprint = digest_of({"plan": plan.sha256, "parts": [r.part_sha256 for r in dataset.commit_records()]})
        self.rows = RowReader(dataset, keeps_damaged)
        shapes_THW = self.rows.shapes_THW()
        every_kind = np.array(self.rows.column("kind"), object)
        has_grid = shapes_THW.all(axis=1)  # sequences that failed have none
        self.numbers = np.flatnonzero(np.isin(every_kind, kinds) & has_grid)
        self.shapes_THW = shapes_THW[self.numbers]
        self.is_video = every_kind[self.numbers] == "video"
        self.keys = self.column("key")

    def column(self, name: str) -> list[Any]:
        """Of the samples."""
        values = self.rows.column(name)
        return [values[number] for number in self.numbers]

    @property
    def has_videos(self) -> bool:
        return bool(self.is_video.any())

    def keep(self, kept: Sequence[int]) -> None:
        """Leaves out all other samples."""
        self.numbers, self.shapes_THW, self.is_video = self.numbers[kept], self.shapes_THW[kept], self.is_video[kept]
        self.keys = [self.keys[index] for index in kept]

    def grid(self, index: int) -> CodeGrid:
        """Return the image or video of a sample. Raises DatasetError if its codes are damaged."""
        codes = self.rows.codes_THW(int(self.numbers[index]))
        if int(codes.max()) >= self.builder.layout.codebook_size:
            raise DatasetError(
                f"{self.rows.dataset.root}: row {self.keys[index]!r}: code {codes.max()} not in codebook"
            )
        return CodeGrid(codes, bool(self.is_video[index]))

    def visual_lengths(self) -> np.ndarray:
        """Tokens of each image or clip with its opening; few sizes occur, so each is counted once."""
        described = np.column_stack((self.is_video, self.shapes_THW)).astype(np.int64)
        sizes, which = np.unique(described, axis=0, return_inverse=True)
        lengths = [self.builder.grid_length(bool(is_video), t, h, w) for is_video, t, h, w in sizes.tolist()]
        return np.array(lengths, np.int64)[which.reshape(-1)]


class CaptionSamples(DatasetSamples):
    """Caption to image, or caption to video."""

    def __init__(self, path: Path, builder: SequenceBuilder, kind: str, keeps_damaged: bool):
        super().__init__(path, builder, [kind], keeps_damaged)
        captions = [text or "" for text in self.column("text")]
        self.without_text: Sequence[str] = [key for key, text in zip(self.keys, captions) if not text]
        self.captions = EncodedTexts(captions, len(self.keys), builder.encode, path.name)
        self.bare_lengths = self.visual_lengths() + 2
        self.lengths = self.bare_lengths + self.captions.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        return self.builder.captioned(self.captions[-1 if is_bare else index], self.grid(index))


class AnsweredRows(DatasetSamples):
    """Images and videos with something said about them; what has no answer, or an empty one, is left out."""

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, KINDS, keeps_damaged)
        columns = zip(self.keys, self.column("extra_json"), self.column("text"), self.is_video)
        read = [self._conversation(index, f"{path}: row {key!r}", *row) for index, (key, *row) in enumerate(columns)]
        kept = [index for index, one in enumerate(read) if one.turns and all(turn.answer for turn in one.turns)]
        self.without_text: Sequence[str] = sorted(set(self.keys) - {self.keys[index] for index in kept})
        self.keep(kept)
        self.conversations = [read[index] for index in kept]

    def _conversation(
        self, index: int, where: str, extra_json: str | None, text: str | None, is_video: bool
    ) -> Conversation:
        try:
            return row_conversation(where, extra_json, text, is_video)
        except DatasetError:
            if not self.rows.is_damaged(int(self.numbers[index])):
                raise
            return Conversation((Turn("", "damaged"),))  # never read: its part is refused


def row_conversation(where: str, extra_json: str | None, caption: str | None, is_video: bool) -> Conversation:
    """The `conversations` of a row, or its `question` and `answer`; the caption answers what has no answer.

    A conversation without turns is a row without an answer. Media marks are dropped: the image goes first.
    Raises DatasetError, beginning with `where`, if `extra_json` is not what an encode job writes.
    """
    try:
        extra = json.loads(extra_json) if extra_json else {}
        question, answer, stored = extra.get("question"), extra.get("answer"), extra.get("conversations")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{where}: extra_json: expected a JSON object: {error}") from error
    if stored == []:
        return Conversation(())
    if stored is not None:
        try:
            read = Conversation.from_json(stored)
        except RefusedInput as error:
            raise DatasetError(f"{where}: {error.detail}") from error
        turns = [Turn(without_media_marks(turn.question), without_media_marks(turn.answer)) for turn in read.turns]
        return Conversation(tuple(turns), read.system)
    question = default_question(is_video) if question is None else question
    answer = caption or "" if answer is None else answer
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DatasetError(f"{where}: extra_json: expected `question` and `answer` as text")
    return Conversation((Turn(question, answer),))


class AnswerSamples(AnsweredRows):
    """Questions and answers about an image or a clip, turn after turn."""

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, keeps_damaged)
        counts = np.array([len(one.turns) for one in self.conversations], np.int64)
        self._ends = np.concatenate(([0], np.cumsum(counts)))
        total = int(self._ends[-1])
        asked = (
            CHAT.question_text(turn.question, number, follows_grid=True)
            for one in self.conversations
            for number, turn in enumerate(one.turns)
        )
        answers = (turn.answer for one in self.conversations for turn in one.turns)
        openings = (CHAT.opening(one.system) for one in self.conversations)
        self.openings = EncodedTexts(openings, len(self.conversations), builder.encode, path.name)
        self.asked = EncodedTexts(asked, total, builder.encode, path.name)
        self.answers = EncodedTexts(answers, total, builder.encode, path.name)
        spoken = np.concatenate(([0], np.cumsum(self.asked.lengths + self.answers.lengths + 1)))[self._ends]
        self.lengths = 1 + self.openings.lengths + self.visual_lengths() + np.diff(spoken)
        self.bare_lengths = self.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        turns = [(self.asked[turn], self.answers[turn]) for turn in range(self._ends[index], self._ends[index + 1])]
        return self.builder.conversation(turns, self.grid(index), self.openings[index])


class AnswerTexts(AnsweredRows):
    """What is said about images and videos as plain text, without them; the answers of many turns a line each."""

    has_videos = False

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, keeps_damaged)
        texts = ("\n".join(turn.answer for turn in one.turns) for one in self.conversations)
        self.texts = EncodedTexts(texts, len(self.conversations), builder.encode, path.name)
        self.lengths = self.texts.lengths + 2
        self.bare_lengths = self.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        self.rows.check(int(self.numbers[index]))
        return self.builder.text(self.texts[index])


class TextSamples:
    """Lines of JSON: `{text}`, or `{question, answer}`."""

    codec: Codec | None = None
    has_videos = False
    without_text: Sequence[str] = ()

    def __init__(self, path: Path, builder: SequenceBuilder):
        content = path.read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.builder = builder
        lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
        entries = [_text_entry(path, number, line) for number, line in lines]
        self.keys = [f"{path.name}#{number}" for number, _ in lines]
        self.has_question = [question is not None for question, _ in entries]
        asked = (None if question is None else CHAT.question_text(question) for question, _ in entries)
        self.asked = EncodedTexts(asked, len(entries), builder.encode, path.name)
        self.answers = EncodedTexts((answer for _, answer in entries), len(entries), builder.encode, path.name)
        self.lengths = self.answers.lengths + 2 + self.asked.lengths
        self.bare_lengths = self.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        if self.has_question[index]:
            return self.builder.conversation([(self.asked[index], self.answers[index])], None)
        return self.builder.text(self.answers[index])


def _text_entry(path: Path, number: int, line: bytes) -> tuple[str | None, str]:
    try:
        entry = json.loads(line)
        question, text = entry.get("question"), entry["answer" if "question" in entry else "text"]
        f"{question}{text}".encode()  # JSON can spell half a surrogate pair, which is no text
    except (ValueError, LookupError, AttributeError) as error:
        raise UsageError(f"{path}: line {number}: expected {{text}} or {{question, answer}}: {error!r}") from error
    if not isinstance(text, str) or not text or not isinstance(question, (str, type(None))):
        raise UsageError(f"{path}: line {number}: expected some text")
    return question, text


class EncodedTexts:
    """Token ids of many texts in one array; index −1 is no text, and so is None."""

    def __init__(self, texts: Iterable[str | None], count: int, encode: Callable[[str], np.ndarray], name: str):
        known: dict[str | None, np.ndarray] = {None: np.zeros(0, np.int32)}
        parts = []
        for text in tqdm(texts, f"texts of {name}", count, unit="text", disable=None, leave=False):
            if text is not None and text not in known:
                known[text] = encode(text)
            parts.append(known[text])
        self.lengths = np.array([len(part) for part in parts], np.int64)
        self._ends = np.concatenate(([0], np.cumsum(self.lengths)))
        self._ids = np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)

    def __getitem__(self, index: int) -> np.ndarray:
        if index < 0:
            return self._ids[:0]
        return self._ids[self._ends[index] : self._ends[index + 1]]


class Mixture:
    """All samples of all sources under one numbering; those longer than a row are left out and listed."""

    def __init__(self, sources: list[Source], builder: SequenceBuilder, row_length: int, keeps_damaged: bool = False):
        self.sources = sources
        self.samples = [open_samples(source, builder, keeps_damaged) for source in sources]
        self.builder = builder
        self.row_length = row_length
        self.members: list[np.ndarray] = []
        self.too_long: list[tuple[str, str, int]] = []
        for source, samples in zip(sources, self.samples):
            fits = samples.lengths <= row_length
            if not fits.any():
                raise UsageError(
                    f"{source.path}: no sample fits a row of {row_length} tokens, the shortest has"
                    f" {samples.lengths.min()}: give --seq-length"
                )
            self.members.append(np.flatnonzero(fits))
            self.too_long += [
                (source.path, samples.keys[i], int(samples.lengths[i])) for i in np.flatnonzero(~fits).tolist()
            ]

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(int(samples.lengths[members].max()) for samples, members in zip(self.samples, self.members))

    def fingerprints(self) -> list[dict[str, Any]]:
        """What decides the samples and their order, for the run's record."""
        described = [
            {"task": source.task, "weight": source.weight, "content": samples.fingerprint}
            for source, samples in zip(self.sources, self.samples)
        ]
        template = asdict(self.builder.renderer.video_format)
        return [
            {**one, "video_template": template} if samples.has_videos else one
            for one, samples in zip(described, self.samples)
        ]
