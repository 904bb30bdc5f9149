"""The journal of a unit being generated: codes of every image so far, appended every few rows.

A line is JSON with its own checksum; a line cut short by a kill, and all after it, count as not written.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json
from shared.storage.paths import is_local, make_directory


class Journal:
    """Appends to the journal at `path`; `codes` holds what it says so far, by `src_index`."""

    def __init__(self, path: Path, belongs: Mapping[str, Any]):
        """Opens or begins a journal. One that belongs to another plan or other numerics is begun anew."""
        self.codes: dict[int, list[int]] = {}
        make_directory(path.parent)
        header, end = {"belongs": dict(belongs)}, 0
        content = path.read_bytes() if path.is_file() else b""
        for line in content.splitlines(keepends=True):
            entry = _entry(line)
            if entry is None or (end == 0 and entry != header):
                break
            end += len(line)
            if "src_index" in entry:
                self._note(entry)
        self.path = path
        self._file: BinaryIO = path.open("ab") if is_local(path) else io.BytesIO(content)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
        if end == 0:
            self._append(header)

    def add(self, src_index: int, codes: Sequence[int]) -> None:
        """Notes the codes of an image so far; only what is new is written."""
        begin = len(self.codes.get(src_index, ()))
        if begin < len(codes):
            new = np.asarray(codes[begin:], "<u2").tobytes()
            entry = {"src_index": src_index, "begin": begin, "codes": base64.b64encode(new).decode()}
            self._note(entry)
            self._append(entry)

    def sync(self) -> None:
        """Brings what was added to the disk; an object store takes it whole each time."""
        if isinstance(self._file, io.BytesIO):
            write_file(self.path, self._file.getvalue())
            return
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """To be called once the unit is committed."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _note(self, entry: Mapping[str, Any]) -> None:
        known = self.codes.setdefault(entry["src_index"], [])
        if entry["begin"] == len(known):
            known += np.frombuffer(base64.b64decode(entry["codes"]), "<u2").tolist()

    def _append(self, entry: Mapping[str, Any]) -> None:
        text = canonical_json(entry)
        self._file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; nothing if it is damaged or cut short."""
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != f"{zlib.crc32(text[:-1]):08x}".encode():
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
