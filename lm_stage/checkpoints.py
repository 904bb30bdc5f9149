"""Checkpoints of a training run: directories that are there whole or not at all.

`checkpoints/step-N/` holds a model as `from_pretrained` loads it (here, in transformers, in mindone), or the adapter
that is trained, and the state of the run beside it. The newest few are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lm_stage.text_tokenizer import JSON_FILE, RANKS_FILE, VISION_FILE
from shared.atomic import sync_directory, temporary_beside, write_file

STATE_FILE = "train_state.safetensors"
TEXT_FILES = (RANKS_FILE, VISION_FILE, JSON_FILE, "tokenizer_config.json", "generation_config.json")
_STEPS = "step-" + "[0-9]" * 8


def model_files(
    weights: Mapping[str, np.ndarray], config: Mapping[str, Any], text_from: Path, dtype: str = "float32"
) -> dict[str, bytes]:
    """Content of a model directory: `config.json`, `model.safetensors` and the text tokenizer's files."""
    stored = {name: np.ascontiguousarray(value.astype(dtype)) for name, value in weights.items()}
    text = {name: (text_from / name).read_bytes() for name in TEXT_FILES if (text_from / name).is_file()}
    described = (json.dumps(config, indent=2) + "\n").encode()
    return {"config.json": described, "model.safetensors": save(stored, metadata={"format": "pt"}), **text}


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Replaces a directory: temporary name, fsync, rename. A failure leaves the old one in its place."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = temporary_beside(directory), temporary_beside(directory)
    try:
        temporary.mkdir()
        for name, content in files.items():
            write_file(temporary / name, content)
        if directory.exists():
            os.rename(directory, aside)
        try:
            os.rename(temporary, directory)
        except BaseException:
            if aside.exists():
                os.rename(aside, directory)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_directory(directory: Path) -> None:
    """Under its own name it is whole or gone."""
    aside = temporary_beside(directory)
    os.rename(directory, aside)
    shutil.rmtree(aside, ignore_errors=True)  # `sweep` takes what is left


class Checkpoints:
    """Those of one run."""

    def __init__(self, run: Path, keep: int):
        self.root = run / "checkpoints"
        self.keep = keep

    def all(self) -> list[Path]:
        """Directories of whole checkpoints, oldest first."""
        return sorted(self.root.glob(_STEPS)) if self.root.is_dir() else []

    def newest(self) -> Path | None:
        """The directory of the last whole checkpoint."""
        return next(reversed(self.all()), None)

    def sweep(self) -> None:
        """Removes what a killed run left half-written or half-removed."""
        for path in [*self.root.glob("step-*.tmp"), *self.root.parent.glob("*.tmp")]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def save(self, step: int, files: Mapping[str, bytes]) -> Path:
        """Writes the checkpoint of `step` steps done; removes old ones. Returns its directory."""
        directory = self.root / f"step-{step:08d}"
        write_directory(directory, files)
        for old in self.all()[: -self.keep]:
            remove_directory(old)
        return directory
