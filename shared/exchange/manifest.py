"""The manifest of an export: what its files hold, written last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.dataset.settings import DatasetSettings
from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json, load_checked_json

EXPORT_FORMAT = "emu3.export/1"
MANIFEST_NAME = "manifest.json"


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
        return cls(values["file"], values["bytes"], values["sha256"], values["rows"])


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
            return cls(
                values["rows_as"],
                DatasetSettings.from_json(values["settings"], where),
                values["digest"],
                values["rows"],
                tuple(ExportedFile.from_json(file) for file in values["files"]),
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{where}: expected the manifest of an export: missing {error}") from error

    @classmethod
    def read(cls, folder: Path) -> ExportManifest | None:
        """Return the manifest of a folder, or None if it has none."""
        path = folder / MANIFEST_NAME
        return cls.from_json(path.read_bytes(), str(path)) if path.is_file() else None
