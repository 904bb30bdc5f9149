"""The configuration of a decoder and its token layout, as a checkpoint in either published naming stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.tokens.layout import SURFACES, TokenLayout

# Role in TokenLayout -> key in BAAI's config.json.
_BAAI_IDS = {role: f"{role}_token_id" for role in ("pad", "bos", "eos", "img", "boi", "eoi", "eol", "eof")}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder; the defaults are those of the published Emu3-Gen model.

    Raises CheckpointError for a shape that cannot be built.
    """

    vocab_size: int = 184622
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    max_position_embeddings: int = 9216
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} {getattr(self, name)!r}: expected an integer from 1"
            for name in self.__slots__
            if name.startswith(("vocab", "hidden", "inter", "num_", "max_"))
            and (not isinstance(getattr(self, name), int) or getattr(self, name) < 1)
        ]
        if problems:
            raise CheckpointError(f"decoder config: {'; '.join(problems)}")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            problems.append("hidden_size must be an even multiple of num_attention_heads")
        if self.num_attention_heads % self.num_key_value_heads:
            problems.append("num_attention_heads must be a multiple of num_key_value_heads")
        if problems:
            raise CheckpointError(f"decoder config not supported: {'; '.join(problems)}; got {self}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config") -> DecoderConfig:
        """Build from BAAI's keys or Hugging Face's (`text_config`).

        Raises CheckpointError if a key is missing or requires a feature that is not implemented.
        """
        raw = raw.get("text_config", raw)
        if not isinstance(raw, Mapping):
            raise CheckpointError(f"{where}: text_config: expected an object, got {raw!r}")
        optional = ("rope_theta", "rms_norm_eps", "tie_word_embeddings")
        if missing := [name for name in cls.__slots__ if name not in raw and name not in optional]:
            raise CheckpointError(f"{where}: expected a decoder config, missing {', '.join(missing)}")
        unsupported = {
            "rope_scaling": raw.get("rope_scaling"),
            "attention_bias": raw.get("attention_bias"),
            "mlp_bias": raw.get("mlp_bias"),
            "hidden_act": None if raw.get("hidden_act", "silu") == "silu" else raw["hidden_act"],
            "head_dim": None if raw.get("head_dim") in (None, _head_dim(raw)) else raw["head_dim"],
        }
        if required := {name: value for name, value in unsupported.items() if value}:
            raise CheckpointError(f"{where}: requires features that the Emu3 decoder does not have: {required}")
        return cls(**{name: raw[name] for name in cls.__slots__ if name in raw})

    @classmethod
    def from_directory(cls, directory: str | Path) -> DecoderConfig:
        return cls.from_dict(read_config(directory), str(Path(directory) / "config.json"))

    def to_dict(self) -> dict[str, Any]:
        """Return BAAI's keys, complete enough for transformers' `Emu3ForCausalLM` to load."""
        return {
            "model_type": "Emu3",
            "architectures": ["Emu3ForCausalLM"],
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_scaling": None,
            "attention_dropout": 0.0,
        }


def _head_dim(raw: Mapping[str, Any]) -> int:
    try:
        return int(raw["hidden_size"]) // int(raw["num_attention_heads"])
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"config: hidden_size and num_attention_heads: expected integers: {error}") from error


def read_config(directory: str | Path) -> dict[str, Any]:
    """Read the `config.json` of a checkpoint. Raises CheckpointError if it is missing or not an object."""
    path = local_directory(directory) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected the model's config.json: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw


def read_layout(directory: str | Path) -> TokenLayout:
    """Read the token layout from the `config.json` of a checkpoint.

    Tries `token_layout` (written by this project), then BAAI's `img_token_id` and similar keys (visual tokens follow
    EOI to the end of the vocabulary), then Hugging Face's `vocabulary_map`.
    Raises CheckpointError if it has none of them, like a model without visual tokens.
    """
    raw, where = read_config(directory), str(Path(directory) / "config.json")
    if "token_layout" in raw:
        return TokenLayout.from_mapping(raw["token_layout"], where)
    if all(key in raw for key in _BAAI_IDS.values()):
        if not all(isinstance(raw[key], int) for key in (*_BAAI_IDS.values(), "vocab_size")):
            raise CheckpointError(f"{where}: {', '.join(_BAAI_IDS.values())}, vocab_size: expected integers")
        ids = {role: raw[key] for role, key in _BAAI_IDS.items()}
        first = ids["eoi"] + 1
        return TokenLayout(**ids, first_visual_token=first, codebook_size=raw["vocab_size"] - first)
    if SURFACES["eoi"] in (vocabulary := raw.get("vocabulary_map") or {}):
        return TokenLayout.from_surfaces(vocabulary, where)
    raise CheckpointError(
        f"{where}: expected a token layout (token_layout, img_token_id …, or vocabulary_map), found none; pass layout="
        " or --layout FILE.json if the model has visual tokens"
    )
