"""Configuration of a vision tokenizer, read from the `config.json` of either published naming."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.codec import MAX_CODEBOOK_SIZE, TEMPORAL_FACTOR
from shared.errors import CheckpointError
from shared.storage.paths import local_directory

NORM_GROUPS = 32

# Field of VQConfig: (Hugging Face `emu3_vqgan` key, BAAI `Emu3VisionVQ` key).
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
class VQConfig:
    """Dimensions of a vision tokenizer; the defaults are those of the published Emu3 model.

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
    temporal_downsample_factor: int = TEMPORAL_FACTOR
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        problems = []
        for level, multiplier in enumerate(self.channel_multiplier):
            if (self.base_channels * multiplier) % NORM_GROUPS:
                problems.append(f"level {level}: channels must be a multiple of {NORM_GROUPS}")
        if self.temporal_downsample_factor != TEMPORAL_FACTOR:
            problems.append(f"temporal_downsample_factor must be {TEMPORAL_FACTOR}")
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            problems.append(f"codebook_size must lie in [1, {MAX_CODEBOOK_SIZE}]: codes are stored as uint16")
        if (self.in_channels, self.out_channels) != (3, 3):
            problems.append("in_channels and out_channels must be 3")
        if problems:
            raise CheckpointError(f"vision tokenizer config not supported: {'; '.join(problems)}; got {self}")

    @property
    def levels(self) -> int:
        """Number of resolutions, each half the one before."""
        return len(self.channel_multiplier)

    @property
    def spatial_factor(self) -> int:
        """Pixels per code along each side of an image: 8 for the published model."""
        return int(2 ** (self.levels - 1))

    def level_channels(self, level: int) -> int:
        return self.base_channels * self.channel_multiplier[level]

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config") -> VQConfig:
        """Read Hugging Face `emu3_vqgan` or BAAI `Emu3VisionVQ` keys.

        Raises CheckpointError, starting with `where`, if a key is missing or its value is not supported.
        """
        naming = 1 if "ch" in raw else 0  # column of _KEYS
        missing = [names[naming] for names in _KEYS.values() if names[naming] not in raw]
        if missing:
            raise CheckpointError(f"{where}: expected a vision tokenizer config, missing {', '.join(missing)}")
        if raw.get("double_latent") or raw.get("double_z"):
            raise CheckpointError(f"{where}: double latents are not supported, expected false")
        if raw.get("num_attention_heads", 1) != 1:
            raise CheckpointError(f"{where}: num_attention_heads: expected 1, got {raw['num_attention_heads']}")
        values = {field: raw[names[naming]] for field, names in _KEYS.items()}
        for field in ("channel_multiplier", "attn_resolutions"):
            values[field] = tuple(values[field] or ())
        return cls(**values)

    @classmethod
    def from_directory(cls, directory: str | Path) -> VQConfig:
        """Read a checkpoint directory's `config.json`. Raises CheckpointError."""
        return cls.from_file(local_directory(directory) / "config.json")

    @classmethod
    def from_file(cls, path: str | Path) -> VQConfig:
        """Read a config file. Raises CheckpointError."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path}: expected a vision tokenizer config in JSON: {error}") from error
        return cls.from_dict(raw, str(path))

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
