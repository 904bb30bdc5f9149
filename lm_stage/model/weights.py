"""Reads decoder weights in any published naming, and computes their fingerprint. Needs MindSpore only to load them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lm_stage.model.config import DecoderConfig
from shared.errors import CheckpointError
from shared.storage.digests import digest_of
from shared.storage.safetensors_reader import StoredTensor, check_tensors, read_checkpoint, rename_tensors

if TYPE_CHECKING:
    from mindspore import nn

_VISION = re.compile(r"^(?:model\.)?vqmodel\.")
_PREFIX = re.compile(r"^(?:model\.)?(?:text_model|language_model)\.(?:model\.)?")
_BUFFER = ".rotary_emb.inv_freq"
VOCABULARY_WEIGHTS = {"model.embed_tokens.weight", "lm_head.weight"}
PADDING_MULTIPLE, MAX_PADDING = 8, 4096  # rows of the vocabulary's matrices


def hugging_face_name(name: str) -> str:
    """Return the name in `Emu3ForCausalLM` of a tensor in any published naming."""
    bare = _PREFIX.sub("", name)
    return bare if bare == name or bare.startswith("lm_head.") else f"model.{bare}"


def is_vision_tensor(name: str) -> bool:
    """Whether a tensor belongs to the vision tokenizer in the same files."""
    return _VISION.match(name) is not None


def read_weights(directory: str | Path) -> dict[str, StoredTensor]:
    """Return the decoder's tensors by their `Emu3ForCausalLM` names, without a vision tokenizer in the same files."""
    stored = {name: t for name, t in read_checkpoint(directory).items() if not is_vision_tensor(name)}
    tensors = rename_tensors(stored, hugging_face_name)
    config = DecoderConfig.from_directory(directory)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    for name in VOCABULARY_WEIGHTS & set(tensors):
        tensors[name] = _without_padding(tensors[name], config.vocab_size)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_BUFFER)}


def _without_padding(tensor: StoredTensor, rows: int) -> StoredTensor:
    """Return the rows of the vocabulary, without those that pad it to a multiple for speed."""
    padded = tensor.shape[0] if len(tensor.shape) == 2 else 0
    if not rows < padded < rows + MAX_PADDING or padded % PADDING_MULTIPLE:
        return tensor
    size_bytes = len(tensor.data) // padded * rows
    return replace(tensor, shape=(rows, *tensor.shape[1:]), data=tensor.data[:size_bytes])


def parameter_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a decoder's tensors by name, in the order in which they are used."""
    C, F, D = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * D, config.num_key_value_heads * D
    norms = {"self_attn.q_norm.weight": (D,), "self_attn.k_norm.weight": (D,)} if config.qk_norm else {}
    layer = {
        "input_layernorm.weight": (C,),
        "self_attn.q_proj.weight": (queries, C),
        "self_attn.k_proj.weight": (keys, C),
        "self_attn.v_proj.weight": (keys, C),
        **norms,
        "self_attn.o_proj.weight": (C, queries),
        "post_attention_layernorm.weight": (C,),
        "mlp.gate_proj.weight": (F, C),
        "mlp.up_proj.weight": (F, C),
        "mlp.down_proj.weight": (C, F),
    }
    layers = {
        f"model.layers.{number}.{name}": shape
        for number in range(config.num_hidden_layers)
        for name, shape in layer.items()
    }
    head = {} if config.tie_word_embeddings else {"lm_head.weight": (config.vocab_size, C)}
    return {"model.embed_tokens.weight": (config.vocab_size, C), **layers, "model.norm.weight": (C,), **head}


def check_weights(directory: str | Path, config: DecoderConfig) -> None:
    """Raise CheckpointError, naming the tensors, if some are missing, unknown or of another shape."""
    tensors = read_weights(directory)
    _check_head_dim(str(directory), tensors, config)
    check_tensors(str(directory), tensors, parameter_shapes(config))


def _check_head_dim(where: str, tensors: Mapping[str, StoredTensor], config: DecoderConfig) -> None:
    """Raise CheckpointError if queries have heads of another size than the config says."""
    name, heads, width = "model.layers.0.self_attn.q_proj.weight", config.num_attention_heads, config.hidden_size
    shape = tensors[name].shape if name in tensors else ()
    if len(shape) != 2 or shape[1] != width or shape[0] % heads or shape[0] == heads * config.head_dim:
        return
    raise CheckpointError(
        f"{where}: config.json: head_dim {config.head_dim} (where it is missing, hidden_size / num_attention_heads ="
        f" {width} / {heads}), but {name} of shape {shape} has {heads} heads of {shape[0] // heads}; use the"
        f" config.json that belongs to these weights, or state head_dim {shape[0] // heads} in it"
    )


def load_weights(decoder: nn.Cell, directory: str | Path) -> None:
    """Copy a checkpoint into the decoder, one tensor at a time.

    Raises CheckpointError, naming the tensors, if some are missing, unknown or of another shape.
    """
    from mindspore import Tensor

    tensors = read_weights(directory)
    parameters = dict(decoder.parameters_and_names())
    check_tensors(str(directory), tensors, {name: p.shape for name, p in parameters.items()})
    for name, p in parameters.items():
        p.set_data(Tensor(tensors[name].float32(), dtype=p.dtype))


def model_fingerprint(directory: str | Path) -> str:
    """Return a SHA-256 over the config and every tensor's name, shape, dtype and bytes."""
    described = {name: [t.dtype, list(t.shape), t.sha256()] for name, t in sorted(read_weights(directory).items())}
    return digest_of({"config": DecoderConfig.from_directory(directory).to_dict(), "tensors": described})
