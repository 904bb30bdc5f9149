"""What the configurations of all families of vision tokenizers have in common, and how their values are checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.codec import MAX_CODEBOOK_SIZE, Codec
from shared.errors import CheckpointError

NORM_GROUPS = 32
MAX_LEVELS, MAX_CHANNELS = 8, 4096  # the published models have 4 or 5 levels of up to 1024 channels
_MAX_VALUES = {"num_res_blocks": 64, "codebook_size": MAX_CODEBOOK_SIZE}
_LISTS = ("channel_multiplier", "attn_resolutions")


@dataclass(frozen=True, slots=True)
class SpatialConfig(ABC):
    """Dimensions of the layers that every encoder and decoder has, and of the codebook.

    Raises CheckpointError for dimensions that are not supported.
    """

    base_channels: int
    channel_multiplier: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    latent_channels: int
    embed_dim: int
    codebook_size: int
    in_channels: int
    out_channels: int

    temporal_factor: ClassVar[int]  # frames per code

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise CheckpointError(f"vision tokenizer config not supported: {'; '.join(problems)}; got {self}")

    def problems(self) -> list[str]:
        """Return what is not supported, one description for each problem."""
        found = []
        for level in range(self.levels):
            channels = self.level_channels(level)
            if channels % NORM_GROUPS:
                found.append(f"level {level}: channels must be a multiple of {NORM_GROUPS}")
            if channels > MAX_CHANNELS:
                found.append(f"level {level}: {channels} channels, over {MAX_CHANNELS}")
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            found.append(f"codebook_size must lie in [1, {MAX_CODEBOOK_SIZE}]")
        if (self.in_channels, self.out_channels) != (3, 3):
            found.append("in_channels and out_channels must be 3")
        return found

    @property
    def levels(self) -> int:
        """Number of resolutions, each half the one before."""
        return len(self.channel_multiplier)

    @property
    def spatial_factor(self) -> int:
        """Pixels per code along each side of an image: 8 for the published Emu3 model, 16 for Emu3.5's."""
        return int(2 ** (self.levels - 1))

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """The levels (0 is full resolution) whose blocks are followed by attention."""
        return self.attn_resolutions

    @property
    def codec(self) -> Codec:
        """What datasets record of the tokenizer, without its fingerprint."""
        return Codec(None, self.codebook_size, self.spatial_factor, self.temporal_factor)

    def level_channels(self, level: int) -> int:
        return self.base_channels * self.channel_multiplier[level]

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what `config.json` holds, under the published keys."""


def read_fields(raw: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the fields of a config from the keys of `config.json` that hold them.

    Raises CheckpointError, naming `where` and the key, if one is missing, or of another type or size than possible.
    """
    if missing := [key for key in keys.values() if key not in raw]:
        raise CheckpointError(f"{where}: expected a vision tokenizer config, missing {', '.join(missing)}")
    return {field: _checked(raw, field, key, where) for field, key in keys.items()}


def _checked(raw: Mapping[str, Any], field: str, key: str, where: str) -> Any:
    """Return a value of the right type and size. Raises CheckpointError, naming `where` and the key."""
    value = raw[key]
    if field not in _LISTS:
        maximum = _MAX_VALUES.get(field, MAX_CHANNELS)
        if type(value) is not int or not 1 <= value <= maximum:
            raise CheckpointError(f"{where}: {key}: expected an integer from 1 to {maximum}, got {value!r:.100}")
        return value
    least, maximum = (1, MAX_CHANNELS) if field == "channel_multiplier" else (0, MAX_LEVELS * MAX_CHANNELS)
    values = [] if value is None and not least else value
    if not isinstance(values, list) or not least <= len(values) <= MAX_LEVELS:
        raise CheckpointError(
            f"{where}: {key}: expected a list of {least} to {MAX_LEVELS} integers, got {value!r:.100}"
        )
    if not all(type(item) is int and least <= item <= maximum for item in values):
        raise CheckpointError(f"{where}: {key}: expected integers from {least} to {maximum}, got {value!r:.100}")
    return tuple(values)
