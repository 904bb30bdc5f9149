"""Configuration of a vision tokenizer, read from the `config.json` of either published naming."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.codec import MAX_CODEBOOK_SIZE, TEMPORAL_FACTOR
from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.storage.small_files import read_json_object

NORM_GROUPS = 32
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MAX_LEVELS, MAX_CHANNELS = 8, 4096  # the published model has 4 levels of up to 1024 channels
MAX_CONFIG_BYTES = 1 << 20

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
_MAX_VALUES = {"num_res_blocks": 64, "codebook_size": MAX_CODEBOOK_SIZE}
_LISTS = ("channel_multiplier", "attn_resolutions")


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
            if self.base_channels * multiplier > MAX_CHANNELS:
                problems.append(f"level {level}: {self.base_channels * multiplier} channels, over {MAX_CHANNELS}")
        if self.temporal_downsample_factor != TEMPORAL_FACTOR:
            problems.append(f"temporal_downsample_factor must be {TEMPORAL_FACTOR}")
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            problems.append(f"codebook_size must lie in [1, {MAX_CODEBOOK_SIZE}]")
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
        values = {field: _checked(raw, field, names[naming], where) for field, names in _KEYS.items()}
        try:
            return cls(**values)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error

    @classmethod
    def from_directory(cls, directory: str | Path) -> VQConfig:
        """Read a checkpoint directory's `config.json`. Raises CheckpointError."""
        path = local_directory(directory) / "config.json"
        if not os.path.isfile(path):  # False for a name that is too long too, where Path.is_file raises OSError
            raise CheckpointError(f"{directory}: expected the directory of a vision tokenizer, {_found(path.parent)}")
        return cls.from_file(path)

    @classmethod
    def from_file(cls, path: str | Path) -> VQConfig:
        """Read a config file. Raises CheckpointError."""
        return cls.from_dict(read_json_object(Path(path), MAX_CONFIG_BYTES, CheckpointError), str(path))

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


def _found(directory: Path) -> str:
    """Describe what is in place of a checkpoint directory, and what to do."""
    if os.path.isfile(directory):
        return "found a file; give the directory that holds config.json and the weights"
    if os.path.isfile(directory / "plan.arrow"):
        return "found a dataset of codes"
    if os.path.isfile(directory / "model" / "config.json") or os.path.isdir(directory / "adapter"):
        return "found a run of `emu3 sft`, whose model is a language model"
    if os.path.isdir(directory):
        return "found no config.json"
    if _HUB_ID.fullmatch(str(directory)):
        return (
            f"found none; if {directory} is a model of the Hugging Face Hub, download it, for example with"
            f" `hf download {directory} --local-dir DIR`, and give DIR"
        )
    return "found nothing there"


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
