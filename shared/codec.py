"""The codec: the properties of a vision tokenizer that datasets and the language model depend on.

A codec states how many pixels and frames one code covers, and how codes are stored; `EMU3` and `EMU35` are those of the
published tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from shared.errors import DatasetError, UsageError

MAX_CODEBOOK_SIZE = 1 << 24  # larger than that of any tokenizer
CODE_DTYPES = {"uint16": 1 << 16, "uint32": MAX_CODEBOOK_SIZE}  # code type -> the largest codebook that it serves
NO_VIDEO_MESSAGE = "this tokenizer encodes images only; save the frames of videos as images and encode those"


def code_dtype(codebook_size: int) -> str:
    """Return the code type, "uint16" or "uint32", in which codes of a codebook are stored."""
    return next(name for name, largest in CODE_DTYPES.items() if codebook_size <= largest)


@dataclass(frozen=True, slots=True)
class Codec:
    """The codec that a dataset's codes belong to.

    `fingerprint` is 64 hex digits over weights and config, or None if unknown. `spatial_factor` is in pixels per
    code and side, `temporal_factor` in frames per code: 1 if the tokenizer encodes images only. Raises UsageError,
    naming the field, for a value that no codec has.
    """

    fingerprint: str | None
    codebook_size: int
    spatial_factor: int
    temporal_factor: int

    def __post_init__(self) -> None:
        if not isinstance(self.fingerprint, str | None):
            raise UsageError(f"codec.fingerprint: expected hex digits or null, got {self.fingerprint!r}")
        if not 1 <= _integer("codebook_size", self.codebook_size) <= MAX_CODEBOOK_SIZE:
            raise UsageError(f"codec.codebook_size: expected 1 to {MAX_CODEBOOK_SIZE}, got {self.codebook_size}")
        for name in ("spatial_factor", "temporal_factor"):
            if _integer(name, getattr(self, name)) < 1:
                raise UsageError(f"codec.{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def short_fingerprint(self) -> str:
        """The first 12 digits of the fingerprint, for messages."""
        return self.fingerprint[:12] if self.fingerprint else "unknown"

    @property
    def code_dtype(self) -> str:
        """The type in which the codes are stored: "uint16" for up to 65 536 entries, else "uint32"."""
        return code_dtype(self.codebook_size)

    @property
    def supports_video(self) -> bool:
        """Whether a code can cover several frames; if not, only images are encoded."""
        return self.temporal_factor > 1

    def is_compatible(self, other: Codec) -> bool:
        """Whether codes of the two may be mixed; an unknown fingerprint may be any."""
        known = {self.fingerprint, other.fingerprint} - {None}
        return self.codebook_size == other.codebook_size and len(known) < 2

    @classmethod
    def published(cls, codebook_size: int) -> Codec:
        """Return the published codec with a codebook of this size; for any other size, one with Emu3's factors."""
        known = next((one for one in (EMU3, EMU35) if one.codebook_size == codebook_size), EMU3)
        return replace(known, codebook_size=codebook_size)

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


EMU3 = Codec(None, 32768, spatial_factor=8, temporal_factor=4)
EMU35 = Codec(None, 131072, spatial_factor=16, temporal_factor=1)
