"""The progress of a unit, and its journal: the codes so far, from which a killed job continues inside an image.

Every line is the CRC-32 of its text in hexadecimal, a space, and the text: canonical JSON. The first line identifies
the plan and the numerics that the codes belong to; each further line appends codes (base64 of little-endian integers of
the codec's code type) to one image or video. Reading ends at the first line that is incomplete or damaged; the rest is
dropped.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.dataset.plan import Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.dataset.rows import CodeRecord
from shared.jobs.job import Task, TaskResult
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json
from shared.storage.paths import is_local, make_directory

DIED = "the worker died each time it reached this prompt"


class Journal:
    """The journal at `path`; `codes` holds the codes by `src_index`."""

    def __init__(self, path: Path, identity: Mapping[str, Any], code_dtype: str):
        """Open the journal, or create it if there is none or the existing one has another identity."""
        self.path = path
        self._code_type = np.dtype(code_dtype).newbyteorder("<")
        self.codes: dict[int, list[int]] = {}
        make_directory(path.parent)
        content = path.read_bytes() if path.is_file() else b""
        header = {"belongs": dict(identity)}
        intact_bytes = self._replay(content, header)
        self._file: BinaryIO = path.open("ab") if is_local(path) else io.BytesIO(content)
        self._file.truncate(intact_bytes)
        self._file.seek(0, os.SEEK_END)
        if intact_bytes == 0:
            self._append(header)

    def add(self, src_index: int, codes: Sequence[int]) -> None:
        """Append what `codes`, all codes of an image so far, has beyond those in the journal."""
        begin = len(self.codes.get(src_index, ()))
        if begin < len(codes):
            new = np.asarray(codes[begin:], self._code_type).tobytes()
            entry = {"src_index": src_index, "begin": begin, "codes": base64.b64encode(new).decode()}
            self._apply(entry)
            self._append(entry)

    def sync(self) -> None:
        """Flush to disk with fsync; in an object store, write the whole journal again."""
        if isinstance(self._file, io.BytesIO):
            write_file(self.path, self._file.getvalue())
            return
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Delete the journal, once its unit is committed."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _replay(self, content: bytes, header: Mapping[str, Any]) -> int:
        """Apply the intact lines and return their length in bytes: 0 if the header is not the expected one."""
        intact_bytes = 0
        for line in content.splitlines(keepends=True):
            entry = _parse_line(line)
            if entry is None or (intact_bytes == 0 and entry != header):
                break
            intact_bytes += len(line)
            if "src_index" in entry:
                self._apply(entry)
        return intact_bytes

    def _apply(self, entry: Mapping[str, Any]) -> None:
        codes = self.codes.setdefault(entry["src_index"], [])
        if entry["begin"] == len(codes):
            codes += np.frombuffer(base64.b64decode(entry["codes"]), self._code_type).tolist()

    def _append(self, entry: Mapping[str, Any]) -> None:
        text = canonical_json(entry)
        self._file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the JSON of a line, or None if the line is incomplete or does not match its checksum."""
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != f"{zlib.crc32(text[:-1]):08x}".encode():
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def unit_refusals(unit: Unit, poison: Collection[int]) -> list[Refusal]:
    """Return the prompts that were refused while planning, and those that killed workers."""
    refusals = []
    for item in unit.inputs:
        reason, detail = item.refused_reason, item.refused_detail or ""
        if item.src_index in poison:
            reason, detail = WORKER_DIED, DIED
        if reason:
            refusals.append(Refusal(item.key, item.src_index, item.uri, reason, detail))
    return refusals


class UnitProgress:
    """What is done of a task; `inputs` are the prompts to generate and `records` the finished ones by `src_index`."""

    def __init__(self, task: Task, unit: Unit, journal: Journal):
        self.task = task
        self.unit = unit
        self.journal = journal
        self.refusals = unit_refusals(unit, task.poison)
        self.records: dict[int, CodeRecord] = {}
        refused = {refusal.src_index for refusal in self.refusals}
        requested = set(task.subset or (item.src_index for item in unit.inputs)) - refused
        self.inputs = [item for item in unit.inputs if item.src_index in requested]
        self._start_s = time.monotonic()

    @property
    def is_complete(self) -> bool:
        return len(self.records) == len(self.inputs)

    def result(self) -> TaskResult:
        elapsed_s = time.monotonic() - self._start_s
        return TaskResult(self.task, len(self.records), quarantined=len(self.refusals), elapsed_s=elapsed_s)
