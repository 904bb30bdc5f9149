"""The configuration of a decoder and its token layout, as a checkpoint in either published naming stores them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lm_stage.model.config_keys import EMU3_TYPES, rope_theta, stated_qk_norm, unsupported_keys
from lm_stage.text.tokenizer import JSON_FILE, VISION_FILE, load_text_tokenizer
from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.storage.small_files import read_json_object, read_small_file
from shared.tokens.layout import SURFACES, TokenLayout

# Role in TokenLayout -> key in BAAI's config.json.
_BAAI_IDS = {role: f"{role}_token_id" for role in ("pad", "bos", "eos", "img", "boi", "eoi", "eol", "eof")}


# The largest sizes that are accepted: larger than those of any model, but the list of shapes still fits into memory.
LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "max_position_embeddings": 1 << 28,
}
MAX_HEAD_DIM = 1 << 14
FLOAT32_MAX = 3.4e38
QK_NORM = "self_attn.q_norm.weight"  # the end of the names of the norms of queries


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder; the defaults are those of the published Emu3-Gen model.

    `head_dim` 0 stands for hidden_size / num_attention_heads and is replaced by that. With `qk_norm`, queries and keys
    have an RMSNorm over each head before the rotation.
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
    head_dim: int = 0
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if problems := [*self._wrong_values(), *self._wrong_heads()]:
            raise CheckpointError(f"decoder config: {'; '.join(problems)}")
        object.__setattr__(self, "head_dim", self.head_dim or self.hidden_size // self.num_attention_heads)

    def _wrong_values(self) -> Iterator[str]:
        for name, most in LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                yield f"{name} {value!r:.60}: expected an integer from 1 to {most}"
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= FLOAT32_MAX:
                yield f"{name} {value!r:.60}: expected a number above 0"
        for name in ("tie_word_embeddings", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                yield f"{name} {getattr(self, name)!r:.60}: expected true or false"
        if type(self.head_dim) is not int or not 0 <= self.head_dim <= MAX_HEAD_DIM or self.head_dim % 2:
            yield f"head_dim {self.head_dim!r:.60}: expected an even integer up to {MAX_HEAD_DIM}"

    def _wrong_heads(self) -> Iterator[str]:
        """Yield problems with sizes that do not divide each other; none if they are not positive integers."""
        sizes = (self.hidden_size, self.num_attention_heads, self.num_key_value_heads)
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            return
        if not self.head_dim and self.hidden_size % (2 * self.num_attention_heads):
            yield f"hidden_size {self.hidden_size}: expected an even multiple of num_attention_heads, or head_dim"
        if self.num_attention_heads % self.num_key_value_heads:
            yield f"num_attention_heads {self.num_attention_heads}: expected a multiple of num_key_value_heads"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config") -> DecoderConfig:
        """Build from BAAI's keys or Hugging Face's (`text_config`).

        Raises CheckpointError if a key is missing or requires a feature that is not implemented.
        """
        text = _text_config(raw, where)
        theta, problems = rope_theta(text)
        problems += unsupported_keys(text)
        _, qk_norm = stated_qk_norm(text)
        values = {name: text.get(name) for name in cls.__slots__} | {"rope_theta": theta, "qk_norm": qk_norm}
        optional = {"tie_word_embeddings", "head_dim", "qk_norm"}
        if text.get("model_type") in (None, *EMU3_TYPES):  # others have other defaults
            optional |= {"rope_theta", "rms_norm_eps"}
        if missing := [name for name, value in values.items() if value is None and name not in optional]:
            problems.insert(0, f"missing {', '.join(missing)}")
            raise CheckpointError(f"{where}: expected a decoder config: {'; '.join(problems[:8])}")
        try:
            config = cls(**{name: value for name, value in values.items() if value is not None})
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error
        if problems:
            raise CheckpointError(f"{where}: not what the decoder computes: {'; '.join(problems[:8])}")
        return config

    @classmethod
    def from_directory(cls, directory: str | Path) -> DecoderConfig:
        """Read the config of a checkpoint, whose weights tell whether queries and keys are normalized.

        Raises CheckpointError also if the weights are missing or contradict what the config states about that.
        """
        from shared.storage.safetensors_reader import read_checkpoint  # which imports numpy

        raw, where = read_config(directory), str(Path(directory) / "config.json")
        config, norms = cls.from_dict(raw, where), qk_norms(read_checkpoint(directory))
        key, stated = stated_qk_norm(text := _text_config(raw, where))
        if stated not in (None, bool(norms)):
            raise CheckpointError(
                f"{where}: {key} {text[key]!r:.60} means {'norms' if stated else 'no norms'} of queries and keys, but"
                f" the weights have {norms[0] if norms else f'no {QK_NORM}'}; use the config.json that belongs to them"
            )
        return replace(config, qk_norm=bool(norms))

    def to_dict(self) -> dict[str, Any]:
        """Return BAAI's keys, complete enough for the class of transformers that computes the same to load."""
        shape = asdict(self)
        class_name = "Qwen3ForCausalLM" if shape.pop("qk_norm") else "Emu3ForCausalLM"
        if not self.qk_norm and self.head_dim * self.num_attention_heads == self.hidden_size:
            del shape["head_dim"]
        return {
            "model_type": "qwen3" if self.qk_norm else "Emu3",
            "architectures": [class_name],
            **shape,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_scaling": None,
            "attention_dropout": 0.0,
        }


def qk_norms(names: Iterable[str]) -> list[str]:
    """Return those names of weights that are norms of queries."""
    return [name for name in names if name.endswith(QK_NORM)]


def _text_config(raw: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the part that describes the decoder.

    Whether embeddings are tied may be stated at the top only (transformers 5). Where both state it, the decoder's part
    decides: transformers 4 writes the default of all models, true, at the top of a complete config.
    """
    if "text_config" not in raw:
        return raw
    text = raw["text_config"]
    if not isinstance(text, Mapping):
        raise CheckpointError(f"{where}: text_config: expected an object, got {text!r:.60}")
    tied = text.get("tie_word_embeddings")
    return {**text, "tie_word_embeddings": raw.get("tie_word_embeddings") if tied is None else tied}


def read_config(directory: str | Path) -> dict[str, Any]:
    """Read the `config.json` of a checkpoint. Raises CheckpointError if it is missing or not an object."""
    return read_json_object(local_directory(directory) / "config.json", error=CheckpointError)


def read_layout(directory: str | Path) -> TokenLayout:
    """Read the token layout from the `config.json` of a checkpoint.

    Tries `token_layout` (written by this project), then BAAI's `img_token_id` and similar keys (visual tokens follow
    EOI), then Hugging Face's `vocabulary_map`.
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
        room = raw["vocab_size"] - first  # more than there are codes if the vocabulary is padded to a multiple
        codes = min(room, _visual_tokens(local_directory(directory)) or room)
        return TokenLayout(**ids, first_visual_token=first, codebook_size=codes)
    vocabulary = raw.get("vocabulary_map")
    if isinstance(vocabulary, dict) and SURFACES["eoi"] in vocabulary:
        if wrong := [name for name, token in vocabulary.items() if not isinstance(token, int)]:
            raise CheckpointError(f"{where}: vocabulary_map: {wrong[0]!r:.60}: expected an integer")
        return TokenLayout.from_surfaces(vocabulary, where)
    raise CheckpointError(
        f"{where}: expected a token layout (token_layout, img_token_id …, or vocabulary_map), found none; pass layout="
        " or --layout FILE.json if the model has visual tokens"
    )


def _visual_tokens(directory: Path) -> int | None:
    """Return the number of visual tokens in the text vocabulary of a checkpoint, None if it has no vocabulary."""
    if (directory / VISION_FILE).is_file():
        lines = read_small_file(directory / VISION_FILE, error=CheckpointError).splitlines()
        return sum(line.startswith(b"<|visual token ") for line in lines)
    if (directory / JSON_FILE).is_file():
        return load_text_tokenizer(directory).layout.codebook_size
    return None
