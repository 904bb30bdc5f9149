"""Configuration of an IBQ tokenizer: Emu3.5's, or one of SEED-Voken with the same modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.errors import CheckpointError
from vq_stage.model.spatial_config import SpatialConfig, read_fields

FRAMES_PER_CODE = 1

_KEYS = {  # of BAAI's `Emu3p5VisionVQ`
    "codebook_size": "codebook_size",
    "embed_dim": "embed_dim",
    "latent_channels": "z_channels",
    "in_channels": "in_channels",
    "out_channels": "out_ch",
    "base_channels": "ch",
    "channel_multiplier": "ch_mult",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
    "resolution": "resolution",
}
_SEED_VOKEN_CODEBOOK_SIZE = "n_embed"
# Keys of variants that compute something else, and the values with which they do not.
_VARIANTS: dict[str, tuple[object, ...]] = {
    "double_z": (False,),
    "resamp_with_conv": (True,),
    "l2_normalize": (False,),
    "cosine_similarity": (False,),
    "remap": (None,),
    "temporal_downsample_factor": (None, FRAMES_PER_CODE),
}


@dataclass(frozen=True, slots=True)
class IbqConfig(SpatialConfig):
    """Dimensions of an IBQ tokenizer; the defaults are the values reported for the published Emu3.5 model.

    `attn_resolutions` are sides in pixels: for a picture of `resolution` pixels, the levels of these sides have
    attention after each block. Pictures of any other size have it at the same levels.
    Raises CheckpointError for dimensions that are not supported.
    """

    base_channels: int = 256
    channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    latent_channels: int = 256
    embed_dim: int = 256
    codebook_size: int = 131072
    in_channels: int = 3
    out_channels: int = 3
    resolution: int = 256

    temporal_factor: ClassVar[int] = FRAMES_PER_CODE

    def problems(self) -> list[str]:
        found = SpatialConfig.problems(self)
        if self.resolution % self.spatial_factor:
            found.append(f"resolution must be a multiple of {self.spatial_factor}")
        return found

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """The levels (0 is full resolution) whose blocks are followed by attention."""
        return tuple(level for level in range(self.levels) if self.resolution >> level in self.attn_resolutions)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config") -> IbqConfig:
        """Read BAAI's `Emu3p5VisionVQ` keys; `n_embed`, as in SEED-Voken, may stand for `codebook_size`.

        Raises CheckpointError, starting with `where`, if a key is missing or its value is not supported.
        """
        keys = dict(_KEYS)
        if "codebook_size" not in raw and _SEED_VOKEN_CODEBOOK_SIZE in raw:
            keys["codebook_size"] = _SEED_VOKEN_CODEBOOK_SIZE
        values = read_fields(raw, keys, where)
        for key, supported in _VARIANTS.items():
            if key in raw and raw[key] not in supported:
                raise CheckpointError(f"{where}: {key}: {raw[key]!r:.100} is not supported, expected {supported[-1]!r}")
        try:
            return cls(**values)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of `Emu3p5VisionVQ`."""
        values = {key: getattr(self, field) for field, key in _KEYS.items()}
        return {
            "model_type": "Emu3p5VisionVQ",
            "architectures": ["Emu3p5VisionVQModel"],
            **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
            "dropout": 0.0,
            "double_z": False,
        }
