"""Small models in each form that people fine-tune, made from one of our own, and saved as a run saves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from lm_stage.model.checksums import write_model_directory
from lm_stage.model.config import read_config, read_layout
from lm_stage.model.safetensors_writer import SavedTensor
from lm_stage.model.saved_model import saved_model_files
from lm_stage.model.weights import read_weights

VISION_TENSOR = "vqmodel.encoder.conv_in.weight"
CONFIGURATION_FILE = """
from transformers import PretrainedConfig

from .shape_emu3 import WIDTH


class Emu3Config(PretrainedConfig):
    model_type = "Emu3"
    width = WIDTH
"""


def conditional_base(model: Path, directory: Path) -> Path:
    """Write Hugging Face's form: `Emu3ForConditionalGeneration` with a vision tokenizer in the same file."""
    directory.mkdir()
    config, layout = read(model), read(model)["token_layout"]
    described = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    surfaces = {token["content"]: token["id"] for token in described["added_tokens"]}
    sizes = {
        key: value for key, value in config.items() if key.startswith(("hidden_", "vocab", "num_", "inter", "rope_"))
    }
    sizes |= {key: config[key] for key in ("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")}
    text = {**sizes, "model_type": "emu3_text_model", "dtype": "float32"}
    text |= {f"{role}_token_id": layout[role] for role in ("pad", "bos", "eos")}
    vision = {"base_channels": 32, "channel_multiplier": [1, 1], "model_type": "emu3_vqgan", "codebook_size": 2048}
    whole = {"architectures": ["Emu3ForConditionalGeneration"], "model_type": "emu3", "dtype": "float32"}
    whole |= {"text_config": text, "vq_config": vision, "vocabulary_map": surfaces, "image_area": 1024}
    (directory / "config.json").write_text(json.dumps(whole))
    shutil.copy(model / "tokenizer.json", directory)
    tensors = {f"text_model.{name}": value for name, value in load_file(model / "model.safetensors").items()}
    tensors[VISION_TENSOR] = np.arange(32 * 3 * 3 * 3, dtype=np.float32).reshape(32, 3, 3, 3)
    save_file(tensors, directory / "model.safetensors")
    return directory


def published_base(model: Path, directory: Path) -> Path:
    """Write BAAI's form: token ids by name, and Python files that `auto_map` names."""
    shutil.copytree(model, directory)
    config = read(model)
    layout = config.pop("token_layout")
    ids = {f"{role}_token_id": token for role, token in layout.items() if len(role) == 3}
    auto_map = {"AutoConfig": "configuration_emu3.Emu3Config", "AutoModelForCausalLM": "modeling_emu3.Emu3ForCausalLM"}
    described = {**config, **ids, "auto_map": auto_map, "torch_dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(described))
    (directory / "configuration_emu3.py").write_text(CONFIGURATION_FILE)
    (directory / "shape_emu3.py").write_text("WIDTH = 3\n")
    (directory / "modeling_emu3.py").write_text("from .configuration_emu3 import Emu3Config\n")
    (directory / "notes.py").write_text("raise SystemExit\n")
    tokenizer = {
        "tokenizer_class": "Emu3Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_emu3.Emu3Tokenizer", None]},
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (directory / "tokenization_emu3.py").write_text("class Emu3Tokenizer: ...\n")
    return directory


def save_again(base: Path, directory: Path, dtype: str = "float32") -> Path:
    """Save a base as a run without steps would."""
    weights = {name: SavedTensor("F32", tensor.shape, tensor.float32) for name, tensor in read_weights(base).items()}
    layout = read_layout(base)
    config = {**read_config(base), "token_layout": layout.to_dict()}
    write_model_directory(directory, saved_model_files(weights, config, layout, base, dtype))
    return directory


def read(model: Path) -> dict[str, Any]:
    """Return the config of a model."""
    return json.loads((model / "config.json").read_text())
