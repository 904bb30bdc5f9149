"""The answers of an understanding job on disk.

Answers are appended to `ANSWERS.partial` as they end, each line with everything it says; when all are there they
are put in the order of the questions into `ANSWERS`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, settings_diff


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

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self, order: Sequence[str]) -> None:
        """Puts all answers in the order of the questions and into their place."""
        if self._file is not None:
            self.close()
            write_file(self.path, b"".join(canonical_json(self.answers[key]).encode() + b"\n" for key in order))
        self.partial.unlink(missing_ok=True)
