"""The codec: the properties of a vision tokenizer that datasets and the language model depend on.

This is the only place that states how many pixels and frames one code covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from shared.errors import DatasetError, UsageError

SPATIAL_FACTOR = 8  # pixels per code along each side of an image, in every published Emu3 vision tokenizer
TEMPORAL_FACTOR = 4  # frames per code in a video
MAX_CODEBOOK_SIZE = 1 << 16  # codes are stored as uint16


@dataclass(frozen=True, slots=True)
class Codec:
    """The codec that a dataset's codes belong to; the default factors are Emu3's.

    `fingerprint` is 64 hex digits over weights and config, or None if unknown. `spatial_factor` is in pixels per
    code and side, `temporal_factor` in frames per code. Raises UsageError, naming the field, for a value that no
    codec has.
    """

    fingerprint: str | None
    codebook_size: int
    spatial_factor: int = SPATIAL_FACTOR
    temporal_factor: int = TEMPORAL_FACTOR

    def __post_init__(self) -> None:
        if not isinstance(self.fingerprint, str | None):
            raise UsageError(f"codec.fingerprint: expected hex digits or null, got {self.fingerprint!r}")
        if not 1 <= _integer("codebook_size", self.codebook_size) <= MAX_CODEBOOK_SIZE:
            raise UsageError(
                f"codec.codebook_size: expected 1 to {MAX_CODEBOOK_SIZE} (codes are uint16), got {self.codebook_size}"
            )
        for name in ("spatial_factor", "temporal_factor"):
            if _integer(name, getattr(self, name)) < 1:
                raise UsageError(f"codec.{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def short_fingerprint(self) -> str:
        """The first 12 digits of the fingerprint, for messages."""
        return self.fingerprint[:12] if self.fingerprint else "unknown"

    @classmethod
    def from_json(cls, values: object, where: str) -> Codec:
        """Build from what `to_json` returned. Raises DatasetError, naming `where` and the field."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping):
            raise DatasetError(f"{where}: codec: expected an object, got {values!r:.100}")
        if names != set(values):
            missing, unknown = sorted(names - set(values)), sorted(map(str, set(values) - names))
            raise DatasetError(f"{where}: codec: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        try:
            return cls(**values)
        except UsageError as error:
            raise DatasetError(f"{where}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"codec.{name}: expected an integer, got {value!r}")
    return value


EMU3 = Codec(None, 32768)
