"""The answers of an understanding job on disk.

Answers are appended to `ANSWERS.partial` as they are completed, each line with its checksum. Once all are there, they
are written to `ANSWERS` as JSON lines, in the order of the questions. `ANSWERS.settings.json` holds the settings they
were created with, and the SHA-256 of the finished file.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from lm_stage.understand.questions import Question
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.storage.atomic import write_file
from shared.storage.checked_json import dump_checked_json, field_problem, load_checked_json
from shared.storage.digests import canonical_json, settings_diff
from shared.storage.small_files import parse_json_object, read_json_object
from shared.tokens.grid_formats import GridFormat

_SHA256 = "answers_sha256"  # of the finished file, among the settings


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Settings of an answer file; a job that resumes must have the same.

    `model` contains the fingerprints of the model directory. `images` is the SHA-256 of the dataset's plan, or None.
    `sampling` is the JSON form of the options.
    `video_format` is set only if videos are asked about. Version 0.1 recorded the SHA-256 of the file of questions; now
    questions are compared one by one.
    """

    model: Mapping[str, Any]
    images: str | None
    question: str | None
    template: str
    max_new_tokens: int
    sampling: Mapping[str, Any]
    seed: int
    video_format: GridFormat | None = None
    questions_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; its names are those of version 0.1."""
        values = asdict(self)
        model, _ = values.pop("model"), values.pop("video_format")
        video_format = self.video_format.to_json() if self.video_format else None
        optional = {"video_template": video_format, "questions_sha256": values.pop("questions_sha256")}
        return {**model, **values, **{name: value for name, value in optional.items() if value}}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question, or the `error` (reason and detail) for which the question was refused.

    `images` are keys of images or videos. `finish_reason` is `eos`, or `length` if `max_new_tokens` or the model's
    positions ended the answer; `tokens` counts its tokens, EOS included.
    """

    key: str
    question: str
    images: tuple[str, ...]
    answer: str | None = None
    finish_reason: str | None = None
    tokens: int = 0
    error: str | None = None

    @classmethod
    def refused(cls, question: Question, error: str) -> Answer:
        return cls(question.key, question.text, question.images, error=error)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Answer:
        """Build from the JSON of a line. Raises LookupError or TypeError for anything else."""
        return cls(**{**values, "images": tuple(values["images"])})

    def to_line(self) -> bytes:
        return canonical_json(asdict(self)).encode() + b"\n"


def settings_path(path: Path) -> Path:
    return path.with_name(path.name + ".settings.json")


def recorded_settings(path: Path) -> dict[str, Any]:
    """Return the settings of an answer file, none if there are none. Raises DatasetError if they are damaged."""
    found = settings_path(path)
    if not found.exists():
        return {}
    try:
        recorded = read_json_object(found, error=DatasetError)
        return load_checked_json(found.read_bytes(), str(found)) if "check" in recorded else recorded
    except DatasetError as error:
        raise DatasetError(f"{error}; delete it and {path.name}* to start again") from error


class AnswerFile:
    """The answers so far, by key; each one is on disk as soon as it is added.

    Raises ConfigMismatchError if the file was created with different settings, UsageError if it belongs to no job,
    DatasetError if it is damaged.
    """

    def __init__(self, path: Path, settings: AnswerSettings):
        self.path = path
        self.answers: dict[str, Answer] = {}
        self._settings = settings.to_json()
        self._partial = path.with_name(path.name + ".partial")
        self._file: BinaryIO | None = None
        recorded = recorded_settings(path)
        self._check_settings(recorded)
        for leftover in path.parent.glob(f"{escape(path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)
        if self._partial.is_file():
            self._resume()
        elif path.is_file():
            self._read_finished(recorded.get(_SHA256))

    def _check_settings(self, recorded: Mapping[str, Any]) -> None:
        if not recorded:
            for found in (self.path, self._partial):
                if found.exists():
                    raise UsageError(f"{found}: exists and was not written by this command; use another file")
            self._write_settings()
        elif diff := settings_diff({**recorded, _SHA256: None}, self._settings):
            raise ConfigMismatchError(
                f"{self.path} was created with different settings:\n  " + "\n  ".join(diff) + "\nuse another file"
            )

    def _write_settings(self, answers_sha256: str | None = None) -> None:
        finished = {_SHA256: answers_sha256} if answers_sha256 else {}
        write_file(settings_path(self.path), dump_checked_json({**self._settings, **finished}))

    def _resume(self) -> None:
        """Collect the intact lines; those that are incomplete or damaged are removed from the file."""
        answers = [_parse_line(line) for line in self._partial.read_bytes().splitlines(keepends=True)]
        self.answers = {answer.key: answer for answer in answers if answer}
        if None in answers:
            self._write_partial()
        self._file = self._partial.open("ab")

    def _read_finished(self, sha256: str | None) -> None:
        content = self.path.read_bytes()
        lines = content.split(b"\n")[:-1]
        answers = [_parse_json_line(line) for line in lines]
        is_intact = sha256 == hashlib.sha256(content).hexdigest() if sha256 else content.endswith(b"\n")
        if not is_intact or None in answers:
            raise DatasetError(f"{self.path}: damaged; delete it to answer again")
        self.answers = {answer.key: answer for answer in answers if answer}

    def add(self, answer: Answer) -> None:
        """Append one answer and flush it to disk with fsync. A finished file is continued."""
        if self._file is None:
            self._write_partial()
            self._file = self._partial.open("ab")
        self.answers[answer.key] = answer
        self._file.write(_checked_line(answer))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_partial(self) -> None:
        write_file(self._partial, b"".join(map(_checked_line, self.answers.values())))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self, keys: Sequence[str]) -> None:
        """Write the finished file, with the answers in the order of `keys`, then those that are not listed."""
        self.close()
        if self._file is not None:
            ordered = dict.fromkeys([*keys, *self.answers])
            content = b"".join(self.answers[key].to_line() for key in ordered)
            self._write_settings(hashlib.sha256(content).hexdigest())
            write_file(self.path, content)
        self._partial.unlink(missing_ok=True)


def _checked_line(answer: Answer) -> bytes:
    line = answer.to_line()
    return f"{zlib.crc32(line):08x} ".encode() + line


def _parse_line(line: bytes) -> Answer | None:
    """Return the answer of a line of the partial file, None if it is incomplete or damaged.

    Version 0.1 wrote lines without a checksum.
    """
    if not line.endswith(b"\n"):
        return None
    if line.startswith(b"{"):
        return _parse_json_line(line)
    checksum, _, text = line.partition(b" ")
    return _parse_json_line(text) if checksum == f"{zlib.crc32(text):08x}".encode() else None


def _parse_json_line(line: bytes) -> Answer | None:
    try:
        answer = Answer.from_json(parse_json_object(line, "answer", DatasetError))
    except (DatasetError, LookupError, TypeError):
        return None
    return None if field_problem(answer) else answer
