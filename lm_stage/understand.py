"""The understanding job: questions about images of a codes dataset, or about nothing but text, to JSON lines.

Answers are appended to `ANSWERS.partial` as they end, each line with everything it says; when all are there they
are put in the order of the questions and become ANSWERS. A killed job resumes behind the last whole line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_stage.sampling import Sampling
from lm_stage.source import EMBEDDED_MODEL, ModelSource
from lm_stage.templates import UNDERSTANDING_TEMPLATES, Templates, interleave
from lm_stage.text_generator import TextGenerator, TextRequest
from shared.atomic import write_file
from shared.code_index import CodeIndex
from shared.dataset import Dataset
from shared.errors import ConfigMismatchError, DatasetError, RefusedInput, UsageError
from shared.fingerprint import canonical_json, settings_diff
from shared.locks import try_claim
from shared.signals import StopFlag, stop_on_signals

DEFAULT_QUESTION = "Please describe the image."
LENGTH_BUCKETS = tuple(256 * 2**power for power in range(12))  # tokens of question and answer: one compile each


@dataclass(frozen=True, slots=True)
class UnderstandOptions:
    """Settings of an understanding job. `slots` is the number of answers written at once."""

    dataset: str | None
    answers: str
    model: str = str(EMBEDDED_MODEL)
    question: str | None = None
    questions: str | None = None
    template: str = "chat"
    max_new_tokens: int = 1024
    sampling: Sampling = field(default_factory=lambda: Sampling(greedy=True))
    seed: int = 0
    slots: int = 8
    layout: str | None = None
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "slots"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.template not in UNDERSTANDING_TEMPLATES:
            raise UsageError(f"--template {self.template!r}: expected one of {', '.join(UNDERSTANDING_TEMPLATES)}")
        if self.dataset is None and self.questions is None:
            raise UsageError("expected a DATASET of images, or --questions FILE.jsonl with questions about text only")
        if self.question is not None and self.questions is not None:
            raise UsageError("--question and --questions: expected one of them")


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `images` are keys of the dataset, `refusal` says why it cannot be asked."""

    key: str
    text: str
    images: tuple[str, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class UnderstandResult:
    """Answers of this run, lines that were there already, and questions of this run that could not be asked."""

    answered: int
    kept: int
    refused: int


def understand(options: UnderstandOptions) -> UnderstandResult:
    """Answers what is not answered yet; the same call resumes.

    Raises ConfigMismatchError, before the model loads, if the answers were begun with other settings;
    Interrupted after SIGINT or SIGTERM, with every finished answer kept.
    """
    source = ModelSource.from_directory(options.model, options.layout)
    index = CodeIndex(Dataset.open(options.dataset)) if options.dataset else None
    if index is not None:
        _check_codec(options, source, index)
    questions = list(_questions(options, index))
    if not questions:
        raise UsageError(f"{options.questions or options.dataset}: holds no question and no image")
    out = Path(options.answers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with stop_on_signals() as stop:
        claim = try_claim(out.with_name(out.name + ".lock"))
        if claim is None:
            raise UsageError(f"{out}: another job writes these answers; give it another file")
        try:
            file = AnswerFile(out, _recorded(options, source, index))
            kept = dict(file.answers)
            missing = [question for question in questions if question.key not in file.answers]
            if missing and file.is_finished:
                raise DatasetError(f"{out}: damaged: {len(missing)} answers are missing; remove it to answer again")
            UnderstandJob(options, source, index, file, stop).run(missing)
            if len(file.answers) < len(questions):
                stop.raise_if_set(f"{len(file.answers)} of {len(questions)} answers kept")
            file.finish([question.key for question in questions])
        finally:
            claim.release()
    errors = [answer["error"] for key, answer in file.answers.items() if key not in kept]
    return UnderstandResult(errors.count(None), len(kept), len(errors) - errors.count(None))


def _check_codec(options: UnderstandOptions, source: ModelSource, index: CodeIndex) -> None:
    found, expected = index.dataset.plan().settings["codec"], source.codec()
    names = ["codebook_size", *(["fingerprint"] if expected["fingerprint"] and found["fingerprint"] else [])]
    if diff := settings_diff({name: expected[name] for name in names}, {name: found[name] for name in names}):
        raise ConfigMismatchError(
            f"{options.dataset}: its codes are not those {options.model} was trained on:\n  " + "\n  ".join(diff)
        )


def _recorded(options: UnderstandOptions, source: ModelSource, index: CodeIndex | None) -> dict[str, Any]:
    questions = Path(options.questions).read_bytes() if options.questions else b""
    return {
        **source.recorded(),
        "images": index.dataset.plan().sha256 if index else None,
        "question": options.question,
        "questions_sha256": hashlib.sha256(questions).hexdigest() if options.questions else None,
        "template": options.template,
        "max_new_tokens": options.max_new_tokens,
        "sampling": asdict(options.sampling),
        "seed": options.seed,
    }


def _questions(options: UnderstandOptions, index: CodeIndex | None) -> Iterator[Question]:
    if options.questions is None:
        text = options.question or DEFAULT_QUESTION
        yield from (Question(key, text, (key,)) for key in index or ())
        return
    path, seen = Path(options.questions), set()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        entries = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as questions: {error}") from error
    for number, entry in entries:
        question = _question(number, entry)
        if question.key in seen:
            raise UsageError(f"{path}: line {number}: key {question.key!r} is taken; give each question its own `key`")
        seen.add(question.key)
        yield question


def _question(number: int, entry: Any) -> Question:
    fields = entry if isinstance(entry, dict) else {}
    images = fields.get("images", [fields["image"]] if "image" in fields else [])
    text, key = fields.get("question", fields.get("text")), str(fields.get("key", f"{number:06d}"))
    if not isinstance(text, str) or not text.strip():
        return Question(key, "", refusal=f"bad_entry: line {number}: expected `question` with some text")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return Question(key, text, refusal=f"bad_entry: line {number}: `images`: expected a list of keys")
    try:
        "".join((key, text, *images)).encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which is no text
        return Question(f"{number:06d}", "", refusal=f"bad_entry: line {number}: not text: {error}")
    return Question(key, text, tuple(images))


class AnswerFile:
    """Answers by key, kept line by line until all are there."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        """Raises ConfigMismatchError if the file was begun with other settings."""
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.settings_path = path.with_name(path.name + ".settings.json")
        self.answers: dict[str, dict[str, Any]] = {}
        for left_by_a_kill in path.parent.glob(f"{escape(path.name)}.*.tmp"):
            left_by_a_kill.unlink(missing_ok=True)
        if self.settings_path.is_file():
            recorded = self._recorded_settings()
            if diff := settings_diff(recorded, settings):
                raise ConfigMismatchError(
                    f"{path} was begun with other settings:\n  " + "\n  ".join(diff) + "\nwrite another file"
                )
        elif path.exists():
            raise UsageError(f"{path}: exists and is not of this job; write another file")
        else:
            write_file(self.settings_path, canonical_json(settings).encode())
        source = path if path.is_file() else self.partial
        content = source.read_bytes() if source.is_file() else b""
        end = self._read(content)
        if source == path and end < len(content):
            raise DatasetError(f"{path}: damaged behind byte {end}; remove it to answer again")
        self._file = None if path.is_file() else self.partial.open("ab")
        if self._file:
            self._file.truncate(end)

    @property
    def is_finished(self) -> bool:
        return self._file is None

    def _recorded_settings(self) -> dict[str, Any]:
        try:
            recorded = json.loads(self.settings_path.read_bytes())
        except ValueError:
            recorded = None
        if not isinstance(recorded, dict):
            raise DatasetError(f"{self.settings_path}: damaged; remove it and {self.path.name}* to begin anew")
        return recorded

    def _read(self, content: bytes) -> int:
        """Notes all whole lines; returns where the last of them ends. A line cut short counts as not written."""
        end = 0
        for line in content.splitlines(keepends=True):
            try:
                answer = json.loads(line)
                key = answer["key"]
            except (ValueError, LookupError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self.answers[key] = answer
            end += len(line)
        return end

    def add(self, answer: dict[str, Any]) -> None:
        """Brings one answer to the disk."""
        assert self._file is not None, "a finished file gets no answers"
        self.answers[answer["key"]] = answer
        self._file.write(canonical_json(answer).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, order: Sequence[str]) -> None:
        """Puts all answers in the order of the questions and into their place."""
        if self._file is not None:
            self._file.close()
            write_file(self.path, b"".join(canonical_json(self.answers[key]).encode() + b"\n" for key in order))
        self.partial.unlink(missing_ok=True)


class UnderstandJob:
    """One run over the questions that have no answer yet."""

    def __init__(
        self,
        options: UnderstandOptions,
        source: ModelSource,
        index: CodeIndex | None,
        file: AnswerFile,
        stop: StopFlag,
    ):
        self.options = options
        self.source = source
        self.index = index
        self.file = file
        self.stop = stop
        self.templates = Templates(source.text_tokenizer, source.layout)

    def run(self, questions: Sequence[Question]) -> None:
        """Answers questions of like length together, the shortest first."""
        by_length: dict[int, list[Question]] = defaultdict(list)
        total = len(questions) + len(self.file.answers)
        with tqdm(total=total, initial=len(self.file.answers), unit="answer", disable=None) as bar:
            for question in questions:
                try:
                    by_length[self._bucket(self._request(question))].append(question)
                except RefusedInput as refusal:
                    self._add(question, error=str(refusal))
                    bar.update()
            if not by_length:
                return
            model = self.source.load(self.options.device, self.options.dtype, self.options.backend)
            for length in sorted(by_length):
                slots = min(self.options.slots, len(by_length[length]))
                generator = model.text_generator(slots, length, self.options.sampling)
                self._answer(generator, by_length[length], bar)

    def _answer(self, generator: TextGenerator, questions: Sequence[Question], bar: tqdm) -> None:
        """Keeps all slots busy over questions of like length, until the stop flag is set."""
        by_key, waiting = {question.key: question for question in questions}, iter(questions)
        while not self.stop.is_set():
            while generator.has_free_slot and (question := next(waiting, None)):
                generator.add(self._request(question))
            if not generator.running:
                return
            for slot in generator.step():
                answer = self.source.text_tokenizer.decode(slot.text_ids())
                self._add(by_key[slot.request.key], answer, slot.finish_reason, len(slot.token_ids))
                bar.update()

    def _request(self, question: Question) -> TextRequest:
        if question.refusal:
            reason, _, detail = question.refusal.partition(": ")
            raise RefusedInput(reason, detail)
        if question.images and self.index is None:
            raise RefusedInput("missing_image", "the question holds images: give their DATASET")
        codes = [self.index.image(key) for key in question.images] if self.index else []
        ids = self.templates.understanding_prompt(interleave(question.text, codes), self.options.template)
        left = self.source.config.max_position_embeddings - len(ids)
        if left < 1:
            raise RefusedInput("too_long", f"{len(ids)} tokens, the model has {left + len(ids)} positions")
        return TextRequest(question.key, ids, min(left, self.options.max_new_tokens), self.options.seed)

    def _bucket(self, request: TextRequest) -> int:
        """Cache length for a question and its answer."""
        bucket = next(bucket for bucket in LENGTH_BUCKETS if bucket >= request.length)
        return min(bucket, self.source.config.max_position_embeddings)

    def _add(
        self,
        question: Question,
        answer: str | None = None,
        finish_reason: str | None = None,
        tokens: int = 0,
        error: str | None = None,
    ) -> None:
        self.file.add(
            {
                "key": question.key,
                "question": question.text,
                "images": list(question.images),
                "answer": answer,
                "finish_reason": finish_reason,
                "tokens": tokens,
                "error": error,
            }
        )
