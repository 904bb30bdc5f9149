"""The files of a saved model, which this project, transformers 4 and 5, and mindone load by their usual calls.

| the base has                     | the saved model                                                                |
|---|---|
| `auto_map` (BAAI)                | keeps it, with the Python files that it names                                  |
| `text_config` (Hugging Face)     | keeps its class, its vision tokenizer's weights and its names of the weights   |
| a family such as llama or qwen3  | keeps its class                                                                |
| norms of queries and keys        | keeps its config, which transformers' `Qwen3ForCausalLM` loads                 |
| anything else                    | is an `Emu3ForCausalLM`                                                        |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_stage.model.checksums import Files
from lm_stage.model.config import DecoderConfig, qk_norms
from lm_stage.model.config_keys import EMU3_TYPES
from lm_stage.model.options import SAVE_DTYPES
from lm_stage.model.safetensors_writer import SavedTensor, TensorFile, stored_tensor
from lm_stage.model.weights import hugging_face_name, is_vision_tensor
from lm_stage.text.tokenizer import JSON_FILE, RANKS_FILE, VISION_FILE
from shared.errors import CheckpointError
from shared.storage.safetensors_reader import read_checkpoint
from shared.storage.small_files import read_json_object, read_small_file
from shared.tokens.layout import SURFACES, TokenLayout

TOKENIZER_CONFIG = "tokenizer_config.json"
TEXT_FILES = (
    *(RANKS_FILE, VISION_FILE, JSON_FILE, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.json", "chat_template.jinja", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)
_RELATIVE_IMPORT = re.compile(r"^\s*(?:from\s+\.(\w+)\s+import|from\s+\.\s+import\s+(\w+))", re.MULTILINE)


def saved_model_files(
    weights: TensorFile,
    config: Mapping[str, Any],
    layout: TokenLayout,
    text: Path | Mapping[str, bytes],
    dtype: str = "float32",
) -> Files:
    """Return the files of a model directory.

    `weights` are those of the decoder by their `Emu3ForCausalLM` names; they are saved as `dtype`. `config` describes
    the base. `text` is the base's directory, with the text tokenizer's files and whatever else its class needs, or the
    files of a new one.
    """
    copied = copied_files(text) if isinstance(text, Path) else dict(text)
    config = saved_config(config, layout, dtype, set(copied), has_qk_norm=bool(qk_norms(weights)))
    tensors = {name: replace(tensor, dtype=SAVE_DTYPES[dtype]) for name, tensor in weights.items()}
    if isinstance(text, Path) and keeps_class_of_base(config):
        tensors = _under_names_of(text, tensors)
    if JSON_FILE in copied and TOKENIZER_CONFIG not in copied:
        copied[TOKENIZER_CONFIG] = _json(tokenizer_config(layout))
    return {"config.json": _json(config), "model.safetensors": tensors, **copied}


def saved_config(
    base: Mapping[str, Any],
    layout: TokenLayout,
    dtype: str,
    python_files: set[str] | None = None,
    has_qk_norm: bool = False,
) -> dict[str, Any]:
    """Return the `config.json` of a saved model from that of its base."""
    config = {key: value for key, value in base.items() if key != "dtype"} | {"torch_dtype": dtype}
    auto_map = config.pop("auto_map", None)
    if auto_map and {f"{module}.py" for module in _modules_of(auto_map)} <= (python_files or set()):
        return {**config, **_token_ids(config, layout), "auto_map": auto_map}
    if keeps_class_of_base(config):
        text = {key: value for key, value in config["text_config"].items() if key not in ("dtype", "torch_dtype")}
        return {**config, "text_config": {**text, **_token_ids(text, layout)}}
    if has_qk_norm:  # `Emu3ForCausalLM` would ignore them; `Qwen3ForCausalLM` has another default of `head_dim`
        return {"head_dim": DecoderConfig.from_dict(config).head_dim, **config, **_token_ids(config, layout)}
    if config.get("model_type") not in (None, *EMU3_TYPES):
        return {**config, **_token_ids(config, layout)}
    return _causal_config(config, layout)


def keeps_class_of_base(config: Mapping[str, Any]) -> bool:
    """Whether the base is an `Emu3ForConditionalGeneration`: a decoder and a vision tokenizer in one checkpoint."""
    return "vq_config" in config and isinstance(config.get("text_config"), Mapping)


def _causal_config(config: Mapping[str, Any], layout: TokenLayout) -> dict[str, Any]:
    """Return the config of an `Emu3ForCausalLM`, in the form in which the automatic classes of transformers find it."""
    source = config.get("text_config", config)
    decoder = DecoderConfig.from_dict(config).to_dict()
    kept = {key: source[key] for key in ("attention_dropout", "initializer_range") if key in source}
    text = {**decoder, **kept, **_token_ids(source, layout), "model_type": "emu3_text_model"}
    others = {key: value for key, value in config.items() if key not in {*text, "text_config", "rope_parameters"}}
    head = {key: decoder[key] for key in ("architectures", "tie_word_embeddings")}
    return {"model_type": "emu3", **head, **others, "text_config": text}


def _token_ids(config: Mapping[str, Any], layout: TokenLayout) -> dict[str, Any]:
    """Return the ids of PAD, BOS and EOS: those of the config if they are in the vocabulary, else the layout's."""
    vocab_size = config.get("vocab_size")

    def is_valid(token: Any) -> bool:
        ids = token if isinstance(token, list) and token else [token]
        return isinstance(vocab_size, int) and all(isinstance(one, int) and 0 <= one < vocab_size for one in ids)

    own = {f"{role}_token_id": getattr(layout, role) for role in ("pad", "bos", "eos")}
    return {key: config[key] if is_valid(config.get(key)) else value for key, value in own.items()}


def tokenizer_config(layout: TokenLayout) -> dict[str, Any]:
    """Return the file that lets `AutoTokenizer` load a bare `tokenizer.json`."""
    surfaces = {f"{role}_token": SURFACES[role] for role in ("pad", "bos", "eos")}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **surfaces, "clean_up_tokenization_spaces": False}


def copied_files(base: Path) -> dict[str, bytes]:
    """Return the text tokenizer's files of a base and the Python files that its configs name."""
    names = [name for name in TEXT_FILES if (base / name).is_file()]
    files = {name: read_small_file(base / name, error=CheckpointError) for name in names}
    pending = [
        module for name in ("config.json", *names) if name.endswith(".json") for module in _named_by(base / name)
    ]
    while pending:
        name = f"{pending.pop()}.py"
        if name not in files and Path(name).name == name and (base / name).is_file():
            files[name] = read_small_file(base / name, error=CheckpointError)
            imported = _RELATIVE_IMPORT.findall(files[name].decode("utf-8", "replace"))
            pending += [module or sibling for module, sibling in imported]
    return files


def _named_by(path: Path) -> Iterator[str]:
    """Yield the Python modules that the `auto_map` of a config names."""
    if path.name in ("config.json", TOKENIZER_CONFIG, "preprocessor_config.json", "processor_config.json"):
        yield from _modules_of(read_json_object(path, error=CheckpointError).get("auto_map"))


def _modules_of(auto_map: object) -> Iterator[str]:
    """Yield the modules of entries such as `modeling_emu3.Emu3ForCausalLM`; those of other repositories have `--`."""
    if isinstance(auto_map, str) and "--" not in auto_map and "." in auto_map:
        yield auto_map.split(".")[0]
    elif isinstance(auto_map, Mapping | list):
        for entry in auto_map.values() if isinstance(auto_map, Mapping) else auto_map:
            yield from _modules_of(entry)


def _under_names_of(base: Path, tensors: TensorFile) -> dict[str, SavedTensor]:
    """Return tensors under the names that a base has for them, with its vision tokenizer's, which are not trained."""
    renamed = {}
    for name, stored in read_checkpoint(base).items():
        if is_vision_tensor(name):
            renamed[name] = stored_tensor(stored)
        elif (found := tensors.get(hugging_face_name(name))) is not None:
            renamed[name] = found
    return renamed


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
