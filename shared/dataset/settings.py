"""The settings that decide the rows of a dataset, recorded in its plan and never changed afterwards.

    {"format": "emu3.seq/1", "codec": {…}, "units": {"rows": 256}, "generation": {…}}

A job refuses to continue a dataset whose recorded settings differ from its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.codec import Codec
from shared.errors import DatasetError

CODES_FORMAT = "emu3.codes/1"
SEQUENCE_FORMAT = "emu3.seq/1"
ANSWER_FORMAT = "emu3.answer/1"
ROW_FORMATS = (CODES_FORMAT, SEQUENCE_FORMAT, ANSWER_FORMAT)

# A group of settings as JSON. Its fields belong to the stage that wrote it, which has a dataclass for them.
Section = Mapping[str, Any]
# Field of DatasetSettings -> name in JSON.
_SECTIONS = {"preprocessing": "preprocessing", "clips": "clips", "generation": "generation", "imported": "import"}


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """Settings of a dataset.

    `format` names the row schema. `unit_rows` is the maximum number of rows per unit of work, None where units do
    not have one. `preprocessing` and `clips` come from an encode job, `generation` from a generate job, `imported`
    from an import of upstream's files.
    """

    codec: Codec
    unit_rows: int | None = None
    format: str = CODES_FORMAT
    preprocessing: Section | None = None
    clips: Section | None = None
    generation: Section | None = None
    imported: Section | None = None

    def fingerprints(self) -> dict[str, Any]:
        """Return the settings that decide the codes; every data file and the dataset digest carry them."""
        values = {"format": self.format, "codec": self.codec.to_json()}
        sections = {"preprocessing": self.preprocessing, "generation": self.generation}
        return values | {name: section for name, section in sections.items() if section is not None}

    @classmethod
    def from_json(cls, values: object, where: str) -> DatasetSettings:
        """Build from what `to_json` returned. Raises DatasetError, naming `where` and the field."""
        settings = _object(values, "settings", where)
        known = {"format", "codec", "units", *_SECTIONS.values()}
        if unknown := sorted(set(settings) - known):
            raise DatasetError(
                f"{where}: settings.{unknown[0]}: unknown field; expected one of {', '.join(sorted(known))}"
            )
        row_format = settings.get("format", CODES_FORMAT)
        if not isinstance(row_format, str) or row_format not in ROW_FORMATS:
            raise DatasetError(
                f"{where}: settings.format: expected one of {', '.join(ROW_FORMATS)}, got {row_format!r}"
            )
        unit_rows = _object(settings["units"], "settings.units", where).get("rows") if "units" in settings else None
        if "units" in settings and (not isinstance(unit_rows, int) or unit_rows < 1):
            raise DatasetError(f"{where}: settings.units.rows: expected an integer of at least 1, got {unit_rows!r}")
        found = {field: name for field, name in _SECTIONS.items() if name in settings}
        return cls(
            codec=Codec.from_json(settings.get("codec"), f"{where}: settings"),
            unit_rows=unit_rows,
            format=row_format,
            **{field: _object(settings[name], f"settings.{name}", where) for field, name in found.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return only what is set: the default format and absent sections are left out."""
        values: dict[str, Any] = {"codec": self.codec.to_json()}
        if self.format != CODES_FORMAT:
            values["format"] = self.format
        if self.unit_rows is not None:
            values["units"] = {"rows": self.unit_rows}
        sections = {name: getattr(self, field) for field, name in _SECTIONS.items()}
        return values | {name: dict(section) for name, section in sections.items() if section is not None}


def _object(value: object, name: str, where: str) -> Section:
    if not isinstance(value, Mapping):
        raise DatasetError(f"{where}: {name}: expected an object, got {value!r:.100}")
    return value
