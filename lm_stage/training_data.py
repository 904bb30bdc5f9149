"""What SFT reads: samples of one or more datasets, with their lengths known and their codes left on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from lm_stage.training_sequences import TASKS, SequenceBuilder, TrainingSequence
from shared.dataset import Dataset
from shared.errors import DatasetError, UsageError
from shared.fingerprint import digest_of
from shared.row_reader import RowReader

DEFAULT_QUESTION = "Please describe the image."


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of a mixture: `PATH[,task=image|understand|text][,weight=W]`.

    In every epoch a sample is seen `weight` times: 0.5 takes every second one, 2 takes each twice.
    """

    path: str
    task: str = "image"
    weight: float = 1.0

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
    codec: Mapping[str, Any] | None

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        """Raises DatasetError if what is on disk is damaged."""


def open_samples(source: Source, builder: SequenceBuilder) -> Samples:
    """Raises UsageError or DatasetError, naming the path, if it is no dataset, not complete or empty."""
    path = Path(source.path)
    if path.suffix == ".jsonl" and path.is_file():
        if source.task != "text":
            raise UsageError(f"{path}: a .jsonl holds text: give it task=text")
        samples: Samples = TextSamples(path, builder)
    elif source.task == "image":
        samples = ImageSamples(path, builder)
    else:
        samples = AnswerSamples(path, builder, with_image=source.task == "understand")
    if not samples.keys:
        raise UsageError(f"{path}: holds no sample for task {source.task}")
    return samples


class DatasetSamples:
    """Images of a codes or sequence dataset; the texts are encoded once, here."""

    def __init__(self, path: Path, builder: SequenceBuilder):
        dataset = Dataset.open(path)
        plan = dataset.plan()
        if missing := dataset.missing_units(plan):
            raise DatasetError(f"{path}: {len(missing)} of {len(plan)} units are missing: finish the job that makes it")
        self.builder = builder
        self.codec = plan.settings["codec"]
        self.fingerprint = digest_of({"plan": plan.sha256, "parts": [r.part_sha256 for r in dataset.commit_records()]})
        self.rows = RowReader(dataset)
        shapes_THW = self.rows.shapes_THW()
        self.numbers = np.flatnonzero(shapes_THW[:, 0] == 1)  # clips and failed sequences are no images
        self.shapes_HW = shapes_THW[self.numbers, 1:]
        every_key = self.rows.column("key")
        self.keys = [every_key[number] for number in self.numbers]

    def column(self, name: str) -> list[Any]:
        """Of the images."""
        values = self.rows.column(name)
        return [values[number] for number in self.numbers]

    def codes_HW(self, index: int) -> np.ndarray:
        codes = self.rows.codes_THW(int(self.numbers[index]))[0]
        if int(codes.max()) >= self.builder.layout.codebook_size:
            raise DatasetError(
                f"{self.rows.dataset.root}: row {self.keys[index]!r}: code {codes.max()} not in codebook"
            )
        return codes

    def image_lengths(self) -> np.ndarray:
        """Tokens of each image with its opening; few sizes occur, so each is counted once."""
        sizes, which = np.unique(self.shapes_HW, axis=0, return_inverse=True)
        return np.array([self.builder.image_length(int(h), int(w)) for h, w in sizes], np.int64)[which.reshape(-1)]


class ImageSamples(DatasetSamples):
    """Caption to image."""

    def __init__(self, path: Path, builder: SequenceBuilder):
        super().__init__(path, builder)
        self.captions = EncodedTexts(
            (text or "" for text in self.column("text")), len(self.keys), builder.encode, path.name
        )
        self.bare_lengths = self.image_lengths() + 2
        self.lengths = self.bare_lengths + self.captions.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        return self.builder.image(self.captions[-1 if is_bare else index], self.codes_HW(index))


class AnswerSamples(DatasetSamples):
    """Question to answer about an image: those in `extra_json` (`question`, `answer`), else the caption."""

    def __init__(self, path: Path, builder: SequenceBuilder, with_image: bool):
        super().__init__(path, builder)
        self.with_image = with_image
        columns = zip(self.keys, self.column("extra_json"), self.column("text"))
        pairs = [_question_and_answer(f"{path}: row {key!r}", extra, text) for key, extra, text in columns]
        kept = [index for index, (_, answer) in enumerate(pairs) if answer]
        self.numbers, self.shapes_HW = self.numbers[kept], self.shapes_HW[kept]
        self.keys, pairs = [self.keys[index] for index in kept], [pairs[index] for index in kept]
        encode = partial(builder.asked, with_image=True)
        self.asked = EncodedTexts((pair[0] for pair in pairs), len(pairs), encode, path.name)
        self.answers = EncodedTexts((pair[1] for pair in pairs), len(pairs), builder.encode, path.name)
        if with_image:
            around = builder.understand_overhead(True) + self.image_lengths() + self.asked.lengths
        else:
            around = np.full(len(pairs), 2, np.int64)
        self.lengths = around + self.answers.lengths
        self.bare_lengths = self.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        if not self.with_image:
            return self.builder.text(self.answers[index])
        return self.builder.understand(self.asked[index], self.answers[index], self.codes_HW(index))


def _question_and_answer(where: str, extra_json: str | None, caption: str | None) -> tuple[str, str]:
    """Raises DatasetError if `extra_json` is not what an encode job writes."""
    try:
        extra = json.loads(extra_json) if extra_json else {}
        question, answer = extra.get("question"), extra.get("answer")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{where}: extra_json: expected a JSON object: {error}") from error
    question, answer = DEFAULT_QUESTION if question is None else question, caption or "" if answer is None else answer
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DatasetError(f"{where}: extra_json: expected `question` and `answer` as text")
    return question, answer


class TextSamples:
    """Lines of JSON: `{text}`, or `{question, answer}`."""

    codec: Mapping[str, Any] | None = None

    def __init__(self, path: Path, builder: SequenceBuilder):
        content = path.read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.builder = builder
        lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
        entries = [_text_entry(path, number, line) for number, line in lines]
        self.keys = [f"{path.name}#{number}" for number, _ in lines]
        self.has_question = [question is not None for question, _ in entries]
        encode = partial(builder.asked, with_image=False)
        self.asked = EncodedTexts((question or "" for question, _ in entries), len(entries), encode, path.name)
        self.answers = EncodedTexts((answer for _, answer in entries), len(entries), builder.encode, path.name)
        self.lengths = self.answers.lengths + 2 + np.where(self.has_question, self.asked.lengths, 0)
        self.bare_lengths = self.lengths

    def sequence(self, index: int, is_bare: bool) -> TrainingSequence:
        if self.has_question[index]:
            return self.builder.understand(self.asked[index], self.answers[index], None)
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
    """Token ids of many texts in one array; index −1 is no text."""

    def __init__(self, texts: Iterator[str], count: int, encode: Callable[[str], np.ndarray], name: str):
        known: dict[str, np.ndarray] = {}
        parts = []
        for text in tqdm(texts, f"texts of {name}", count, unit="text", disable=None, leave=False):
            if text not in known:
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

    def __init__(self, sources: list[Source], builder: SequenceBuilder, row_length: int):
        self.sources = sources
        self.samples = [open_samples(source, builder) for source in sources]
        self.builder = builder
        self.row_length = row_length
        self.members: list[np.ndarray] = []
        self.too_long: list[tuple[str, str, int]] = []
        for source, samples in zip(sources, self.samples):
            fits = samples.lengths <= row_length
            if not fits.any():
                raise UsageError(
                    f"{source.path}: no sample fits a row of {row_length} tokens, the shortest has"
                    f" {samples.lengths.min()}: give --row-tokens"
                )
            self.members.append(np.flatnonzero(fits))
            self.too_long += [
                (source.path, samples.keys[i], int(samples.lengths[i])) for i in np.flatnonzero(~fits).tolist()
            ]

    def fingerprints(self) -> list[dict[str, Any]]:
        """What decides the samples and their order, for the run's record."""
        return [
            {"task": source.task, "weight": source.weight, "samples": len(members), "content": samples.fingerprint}
            for source, samples, members in zip(self.sources, self.samples, self.members)
        ]
