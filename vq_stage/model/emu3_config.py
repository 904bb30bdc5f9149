"""Configuration of Emu3's vision tokenizer, read from the `config.json` of either published naming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from shared.codec import EMU3
from shared.errors import CheckpointError
from vq_stage.model.spatial_config import SpatialConfig, read_fields

# Field of Emu3Config: (Hugging Face `emu3_vqgan` key, BAAI `Emu3VisionVQ` key).
_KEYS = {
    "base_channels": ("base_channels", "ch"),
    "channel_multiplier": ("channel_multiplier", "ch_mult"),
    "num_res_blocks": ("num_res_blocks", "num_res_blocks"),
    "attn_resolutions": ("attn_resolutions", "attn_resolutions"),
    "latent_channels": ("latent_channels", "z_channels"),
    "embed_dim": ("embed_dim", "embed_dim"),
    "codebook_size": ("codebook_size", "codebook_size"),
    "temporal_downsample_factor": ("temporal_downsample_factor", "temporal_downsample_factor"),
    "in_channels": ("in_channels", "in_channels"),
    "out_channels": ("out_channels", "out_channels"),
}


@dataclass(frozen=True, slots=True)
class Emu3Config(SpatialConfig):
    """Dimensions of an Emu3 vision tokenizer; the defaults are those of the published model.

    `attn_resolutions` lists the levels (0 is full resolution) whose blocks are followed by attention.
    Raises CheckpointError for dimensions that are not supported.
    """

    base_channels: int = 256
    channel_multiplier: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (3,)
    latent_channels: int = 4
    embed_dim: int = 4
    codebook_size: int = 32768
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = EMU3.temporal_factor

    temporal_factor: ClassVar[int] = EMU3.temporal_factor

    def problems(self) -> list[str]:
        found = SpatialConfig.problems(self)
        if self.temporal_downsample_factor != EMU3.temporal_factor:
            found.append(f"temporal_downsample_factor must be {EMU3.temporal_factor}")
        return found

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config") -> Emu3Config:
        """Read Hugging Face `emu3_vqgan` or BAAI `Emu3VisionVQ` keys.

        Raises CheckpointError, starting with `where`, if a key is missing or its value is not supported.
        """
        naming = 1 if "ch" in raw else 0  # column of _KEYS
        values = read_fields(raw, {field: names[naming] for field, names in _KEYS.items()}, where)
        if raw.get("double_latent") or raw.get("double_z"):
            raise CheckpointError(f"{where}: double latents are not supported, expected false")
        if raw.get("num_attention_heads", 1) != 1:
            raise CheckpointError(f"{where}: num_attention_heads: expected 1, got {raw['num_attention_heads']}")
        try:
            return cls(**values)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the Hugging Face keys, complete enough for transformers' `Emu3VQVAE` to load."""
        return {
            "model_type": "emu3_vqgan",
            "architectures": ["Emu3VQVAE"],
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()},
            "double_latent": False,
            "hidden_size": self.level_channels(-1),
            "num_attention_heads": 1,
            "attention_dropout": 0.0,
        }
