"""Decoder checkpoints under the names of MindFormers' `LlamaForCausalLM`, and back.

The matrices are the same: MindFormers 1.8 keeps queries and keys in Hugging Face's order of rotary pairs, and separate
matrices as long as its `qkv_concat` is off. Only names differ, so that tensors are copied byte by byte.
Source: `LlamaForCausalLM.convert_name` of MindFormers 1.8; MindFormers itself has not been run.
"""

from __future__ import annotations

from pathlib import Path

from lm_stage.model.checksums import write_model_directory
from lm_stage.model.config import DecoderConfig
from lm_stage.model.model_directory import model_path
from lm_stage.model.safetensors_writer import SavedTensor, stored_tensor, write_safetensors
from lm_stage.model.saved_model import copied_files
from lm_stage.model.weights import hugging_face_name, is_vision_tensor, parameter_shapes, read_weights
from shared.errors import CheckpointError, UsageError
from shared.storage.atomic import remove_stale_directories, replaced_directory, write_file
from shared.storage.digests import canonical_json
from shared.storage.paths import check_link, names_in
from shared.storage.safetensors_reader import check_tensors, read_checkpoint, read_files
from shared.storage.small_files import read_small_file

MODEL_FILE, MAP_FILE = "model.safetensors", "param_name_map.json"
_PARTS = {
    "model.embed_tokens.weight": "model.tok_embeddings.embedding_weight",
    "model.norm.weight": "model.norm_out.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER_PARTS = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
_OPTIMIZER_PREFIXES = ("adam_m.", "adam_v.")


def mindformers_name(name: str) -> str:
    """Return MindFormers' name of a weight of `Emu3ForCausalLM`. Raises KeyError for any other."""
    if name in _PARTS:
        return _PARTS[name]
    model, layers, number, part = name.split(".", 3)
    return f"{model}.{layers}.{number}.{_LAYER_PARTS[part.removesuffix('.weight')]}.weight"


def to_mindformers(model: str | Path, out: str | Path) -> Path:
    """Write the weights of a model as MindFormers loads them: `model.safetensors` and the list of its names.

    Raises CheckpointError if the weights do not fit the config, UsageError if `out` is not empty.
    """
    path, target = model_path(model), _new_directory(out)
    config, tensors = _llama_config(path), read_weights(path)
    check_tensors(str(path), tensors, parameter_shapes(config))
    renamed = {mindformers_name(name): stored_tensor(tensors[name]) for name in parameter_shapes(config)}
    with replaced_directory(target) as folder:
        write_safetensors(folder / MODEL_FILE, renamed)
        write_file(folder / MAP_FILE, (canonical_json(dict.fromkeys(renamed, MODEL_FILE)) + "\n").encode())
    return target


def from_mindformers(weights: str | Path, model: str | Path, out: str | Path) -> Path:
    """Write a model directory from MindFormers' complete weights; everything else is that of `model`.

    All `.safetensors` files of the folder `weights` are read; moments of the optimizer and counters are left out.
    Raises CheckpointError if a weight is missing, unknown or of another shape, UsageError if `out` is not empty.
    """
    path, target = model_path(model), _new_directory(out)
    shapes = parameter_shapes(_llama_config(path))
    stored = read_files(sorted(Path(weights).glob("*.safetensors")))
    if not stored:
        raise CheckpointError(f"{weights}: expected a folder with the .safetensors files of MindFormers")
    found = {name: tensor for name, tensor in stored.items() if not _is_training_state(name)}
    check_tensors(str(weights), found, {mindformers_name(name): shape for name, shape in shapes.items()})
    tensors: dict[str, SavedTensor] = {}
    for name, of_base in read_checkpoint(path).items():
        if is_vision_tensor(name):
            tensors[name] = stored_tensor(of_base)
        elif hugging_face_name(name) in shapes:
            tensors[name] = stored_tensor(found[mindformers_name(hugging_face_name(name))])
    config = read_small_file(path / "config.json", error=CheckpointError)
    write_model_directory(target, {"config.json": config, MODEL_FILE: tensors, **copied_files(path)})
    return target


def _llama_config(path: Path) -> DecoderConfig:
    """Return the config of a model. Raises CheckpointError for one that `LlamaForCausalLM` does not compute."""
    config = DecoderConfig.from_directory(path)
    if config.qk_norm:
        raise CheckpointError(f"{path}: has norms of queries and keys, which MindFormers' `LlamaForCausalLM` lacks")
    return config


def _new_directory(location: str | Path) -> Path:
    target = Path(location)
    if "://" in str(location) or (target.exists() and (not target.is_dir() or names_in(target))):
        raise UsageError(f"{location}: expected a local directory that is empty or does not exist yet")
    check_link(target)
    remove_stale_directories(target)
    return target


def _is_training_state(name: str) -> bool:
    """Whether a tensor is a moment of the optimizer, or a counter such as `global_step`."""
    return name.startswith(_OPTIMIZER_PREFIXES) or "." not in name
