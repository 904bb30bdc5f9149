"""A model whose vocabulary is padded to a multiple, as training frameworks do for speed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

MULTIPLE = 64


def pad_vocabulary(model: Path, directory: Path, in_config: bool) -> Path:
    """Copy a model with more rows in its embedding and head; `in_config`: `vocab_size` counts them too."""
    shutil.copytree(model, directory)
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        missing = MULTIPLE - len(tensors[name]) % MULTIPLE
        tensors[name] = np.pad(tensors[name], ((0, missing), (0, 0)), constant_values=9.0)
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    if in_config:
        config["vocab_size"] = len(tensors["lm_head.weight"])
    (directory / "config.json").write_text(json.dumps(config))
    return directory
