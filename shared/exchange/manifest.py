"""The manifest of an export: what its files hold, written last.

It is in a folder that PyArrow, `datasets` and other readers of whole folders skip, so that they do not read it as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.dataset.settings import DatasetSettings
from shared.errors import DatasetError
from shared.storage.atomic import remove_stale_temporaries, write_file
from shared.storage.checked_json import dump_checked_json, field_problem, load_checked_json
from shared.storage.paths import is_file_name, make_directory
from shared.storage.small_files import read_small_file

EXPORT_FORMAT = "emu3.export/1"
MAX_BYTES = 1 << 30
MANIFEST_NAME = "__emu3__/manifest.json"
_EARLIER_NAME = "manifest.json"  # of version 0.1


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file of rows as the manifest lists it."""

    name: str
    size_bytes: int
    sha256: str
    rows: int

    def to_json(self) -> dict[str, Any]:
        return {"file": self.name, "bytes": self.size_bytes, "sha256": self.sha256, "rows": self.rows}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExportedFile:
        """Raise KeyError or ValueError if values are missing or wrong, or the name leads out of the folder."""
        file = cls(values["file"], values["bytes"], values["sha256"], values["rows"])
        if problem := field_problem(file):
            raise ValueError(problem)
        if not is_file_name(file.name):
            raise ValueError(f"{file.name!r} is not a file name")
        return file


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """The contents of an export. `digest` is what `emu3 verify` prints for the dataset it was made from."""

    format: str
    settings: DatasetSettings
    digest: str
    rows: int
    files: tuple[ExportedFile, ...]

    def to_json(self) -> bytes:
        return dump_checked_json(
            {
                "format": EXPORT_FORMAT,
                "rows_as": self.format,
                "settings": self.settings.to_json(),
                "fingerprints": self.settings.fingerprints(),
                "digest": self.digest,
                "rows": self.rows,
                "files": [file.to_json() for file in self.files],
            }
        )

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ExportManifest:
        """Raise DatasetError if the manifest is damaged or does not belong to an export."""
        values = load_checked_json(data, where)
        if values.get("format") != EXPORT_FORMAT:
            raise DatasetError(f"{where}: expected the manifest of an export ({EXPORT_FORMAT})")
        try:
            manifest = cls(
                values["rows_as"],
                DatasetSettings.from_json(values["settings"], where),
                values["digest"],
                values["rows"],
                tuple(ExportedFile.from_json(file) for file in values["files"]),
            )
            if problem := field_problem(manifest):
                raise ValueError(problem)
            if manifest.rows < 0:
                raise ValueError(f"rows: expected a count, got {manifest.rows}")
            return manifest
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: expected the manifest of an export: {error!r}") from error

    @classmethod
    def read(cls, folder: Path) -> ExportManifest | None:
        """Return the manifest of a folder, or None if it has none."""
        for path in (folder / MANIFEST_NAME, folder / _EARLIER_NAME):
            if path.is_file():
                return cls.from_json(read_small_file(path, MAX_BYTES, DatasetError), str(path))
        return None

    def write(self, folder: Path) -> None:
        """Write the manifest if it is not there yet, and remove one of version 0.1."""
        path, content = folder / MANIFEST_NAME, self.to_json()
        make_directory(path.parent)
        remove_stale_temporaries(path.parent)
        if not path.is_file() or path.read_bytes() != content:
            write_file(path, content)
        (folder / _EARLIER_NAME).unlink(missing_ok=True)

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove the manifest, because the files are about to change."""
        for name in (MANIFEST_NAME, _EARLIER_NAME):
            (folder / name).unlink(missing_ok=True)
