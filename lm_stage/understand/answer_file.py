"""The answers of an understanding job on disk, as JSON lines.

Answers are appended to `ANSWERS.partial` as they are completed. Once all are there, they are written to `ANSWERS` in
the order of the questions. `ANSWERS.settings.json` holds the settings they were created with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

from lm_stage.inference.options import SamplingOptions
from lm_stage.understand.questions import Question
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, settings_diff
from shared.tokens.grid_formats import GridFormat


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Settings of an answer file; a job that resumes must have the same.

    `model` contains the fingerprints of the model directory. `images` is the SHA-256 of the dataset's plan and
    `questions_sha256` that of the file of questions, each None if there is none. `video_format` is set only if videos
    are asked about.
    """

    model: Mapping[str, Any]
    images: str | None
    question: str | None
    questions_sha256: str | None
    template: str
    max_new_tokens: int
    sampling: SamplingOptions
    seed: int
    video_format: GridFormat | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; its names are those of version 0.1."""
        values = asdict(self)
        model, video_format = values.pop("model"), values.pop("video_format")
        return {**model, **values, **({"video_template": video_format} if video_format else {})}


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


class AnswerFile:
    """The answers so far, by key; each one is on disk as soon as it is added.

    Raises ConfigMismatchError if the file was created with different settings, UsageError if it belongs to no job,
    DatasetError if it is damaged.
    """

    def __init__(self, path: Path, settings: AnswerSettings):
        self.path = path
        self.answers: dict[str, Answer] = {}
        self._partial = path.with_name(path.name + ".partial")
        self._settings_path = path.with_name(path.name + ".settings.json")
        for leftover in path.parent.glob(f"{escape(path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)
        self._check_settings(settings)
        self._file = None if path.is_file() else self._partial.open("ab")
        content = (path if self._file is None else self._partial).read_bytes()
        intact_bytes = self._read(content)
        if self._file is not None:
            self._file.truncate(intact_bytes)
        elif intact_bytes < len(content):
            raise DatasetError(f"{path}: damaged after byte {intact_bytes}; delete it to answer again")

    @property
    def is_finished(self) -> bool:
        return self._file is None

    def _check_settings(self, settings: AnswerSettings) -> None:
        if self._settings_path.is_file():
            if diff := settings_diff(self._recorded_settings(), settings.to_json()):
                raise ConfigMismatchError(
                    f"{self.path} was created with different settings:\n  " + "\n  ".join(diff) + "\nuse another file"
                )
        elif self.path.exists():
            raise UsageError(f"{self.path}: exists and was not written by this command; use another file")
        else:
            write_file(self._settings_path, canonical_json(settings.to_json()).encode())

    def _recorded_settings(self) -> dict[str, Any]:
        try:
            recorded = json.loads(self._settings_path.read_bytes())
        except ValueError:
            recorded = None
        if not isinstance(recorded, dict):
            raise DatasetError(f"{self._settings_path}: damaged; delete it and {self.path.name}* to start again")
        return recorded

    def _read(self, content: bytes) -> int:
        """Collect the answers of all complete lines and return the length of these lines in bytes."""
        intact_bytes = 0
        for line in content.splitlines(keepends=True):
            try:
                answer = Answer.from_json(json.loads(line))
            except (ValueError, LookupError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self.answers[answer.key] = answer
            intact_bytes += len(line)
        return intact_bytes

    def add(self, answer: Answer) -> None:
        """Append one answer and flush it to disk with fsync."""
        assert self._file is not None, "no answers can be added to a finished file"
        self.answers[answer.key] = answer
        self._file.write(answer.to_line())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self, keys: Sequence[str]) -> None:
        """Write the finished file, with the answers in the order of `keys`."""
        self.close()
        if self._file is not None:
            write_file(self.path, b"".join(self.answers[key].to_line() for key in keys))
        self._partial.unlink(missing_ok=True)
