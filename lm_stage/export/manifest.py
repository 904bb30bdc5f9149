"""The manifest of exported sequences: how they were made, what the files hold, and their checksums."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm_stage.export.options import SequenceExportResult
from shared.errors import DatasetError
from shared.storage.digests import digest_of
from shared.storage.paths import names_in, sha256_of
from shared.storage.small_files import read_json_object

SEQUENCES_FORMAT = "emu3.sequences/1"
MANIFEST_NAME = "manifest.json"
_CHECKSUM = "check"  # the member that holds the checksum of the others


@dataclass(frozen=True, slots=True)
class SequenceFile:
    """One file of an export."""

    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> SequenceFile:
        """Describe a file and make it durable."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return cls(path.name, path.stat().st_size, sha256_of(path))


@dataclass(frozen=True, slots=True)
class SequenceManifest:
    """`settings` determine the files; `types` are those of their elements by column or file name."""

    settings: dict[str, Any]
    types: dict[str, str]
    counts: dict[str, int]
    files: tuple[SequenceFile, ...]

    def to_json(self) -> bytes:
        """Return indented JSON; `check` is the SHA-256 of the canonical JSON without it."""
        values = {"format": SEQUENCES_FORMAT, **asdict(self)}
        return (json.dumps({**values, _CHECKSUM: digest_of(values)}, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> SequenceManifest | None:
        """Return the manifest of a folder, None if it has none. Raises DatasetError if it is damaged or another."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            return None
        values = read_json_object(path, error=DatasetError)
        found = values.pop(_CHECKSUM, None)
        if values.get("format") != SEQUENCES_FORMAT:
            raise DatasetError(f"{path}: expected the manifest of exported sequences ({SEQUENCES_FORMAT})")
        if found is None or found != _digest_of(values):
            raise DatasetError(f"{path}: damaged: its content does not match its checksum; remove {folder}")
        files = tuple(SequenceFile(**file) for file in values["files"])
        return cls(values["settings"], values["types"], values["counts"], files)

    def is_intact(self, folder: Path) -> bool:
        """Whether every file is there with its checksum."""
        return all(sha256_of(folder / file.file) == file.sha256 for file in self.files)

    def result(self, *, is_new: bool) -> SequenceExportResult:
        return SequenceExportResult(**self.counts, size_bytes=sum(file.bytes for file in self.files), is_new=is_new)


def _digest_of(values: dict[str, Any]) -> str | None:
    """Return the checksum of values; None for what is never written: NaN, or half of a surrogate pair."""
    try:
        return digest_of(values)
    except ValueError:
        return None


def described_files(folder: Path, excluded: str) -> tuple[SequenceFile, ...]:
    """Describe all files of a folder but one, in the order of their names, and make them durable."""
    return tuple(SequenceFile.of(folder / name) for name in sorted(names_in(folder)) if name != excluded)
