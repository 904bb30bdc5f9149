"""Checkpoints of a training run: directories that are there whole or not at all.

`checkpoints/step-N/` holds a model as `from_pretrained` loads it (here, in transformers, in mindone), and the
optimizer's state beside it. The newest few are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save

from lm_stage.text_tokenizer import JSON_FILE, RANKS_FILE, VISION_FILE
from shared.atomic import sync_directory, temporary_beside, write_file
from shared.errors import CheckpointError

if TYPE_CHECKING:
    from lm_stage.model import Decoder
    from lm_stage.optimizer import AdamW

STATE_FILE = "train_state.safetensors"
TEXT_FILES = (RANKS_FILE, VISION_FILE, JSON_FILE, "tokenizer_config.json", "generation_config.json")


def save_model(
    directory: Path, decoder: Decoder, config: Mapping[str, Any], text_from: Path, dtype: str = "float32"
) -> None:
    """Writes `config.json`, `model.safetensors` and the text tokenizer's files, replacing the directory whole."""
    weights = {name: p.asnumpy().astype(dtype) for name, p in decoder.parameters_and_names()}
    files = {"config.json": (json.dumps(config, indent=2) + "\n").encode()}
    files["model.safetensors"] = save(weights, metadata={"format": "pt"})
    write_directory(directory, {**files, **_text_files(text_from)})


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Replaces a directory: temporary name, fsync, rename."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(directory)
    try:
        temporary.mkdir()
        for name, content in files.items():
            write_file(temporary / name, content)
        if directory.exists():
            shutil.rmtree(directory)
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(directory.parent)


def _text_files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in TEXT_FILES if (directory / name).is_file()}


class Checkpoints:
    """Those of one run."""

    def __init__(self, run: Path, keep: int):
        self.root = run / "checkpoints"
        self.keep = keep

    def newest(self) -> Path | None:
        """The directory of the last whole checkpoint."""
        found = sorted(self.root.glob("step-" + "[0-9]" * 8)) if self.root.is_dir() else []
        return found[-1] if found else None

    def sweep(self) -> None:
        """Removes what a killed run left of a checkpoint."""
        for path in self.root.glob("step-*.tmp") if self.root.is_dir() else ():
            shutil.rmtree(path, ignore_errors=True)

    def save(
        self,
        step: int,
        decoder: Decoder,
        optimizer: AdamW,
        counters: Mapping[str, int],
        model_config: Mapping,
        text: Path,
    ) -> Path:
        """Writes the checkpoint of `step` steps done; removes old ones. Returns its directory."""
        state = {f"m.{name}": p.asnumpy() for name, p in zip(optimizer.names, optimizer.m)}
        state |= {f"v.{name}": p.asnumpy() for name, p in zip(optimizer.names, optimizer.v)}
        state |= {name: np.array([value]) for name, value in {**counters, "step": step}.items()}
        weights = {name: p.asnumpy() for name, p in decoder.parameters_and_names()}
        directory = self.root / f"step-{step:08d}"
        files = {
            "config.json": (json.dumps(model_config, indent=2) + "\n").encode(),
            "model.safetensors": save(weights, metadata={"format": "pt"}),
            STATE_FILE: save(state),
            **_text_files(text),
        }
        write_directory(directory, files)
        for old in sorted(self.root.glob("step-" + "[0-9]" * 8))[: -self.keep]:
            shutil.rmtree(old)
        return directory

    def restore(self, directory: Path, optimizer: AdamW) -> dict[str, int]:
        """Puts the moments back; returns the counters with `step`. The weights are loaded like any model's."""
        import mindspore as ms

        path = directory / STATE_FILE
        try:
            state = load_file(path)
            for name, m, v in zip(optimizer.names, optimizer.m, optimizer.v):
                m.set_data(ms.Tensor(state.pop(f"m.{name}")))
                v.set_data(ms.Tensor(state.pop(f"v.{name}")))
        except Exception as error:  # the safetensors library raises its own class
            raise CheckpointError(
                f"{path}: cannot be resumed from: {error!r}; remove {directory} to go back"
            ) from error
        return {name: int(value[0]) for name, value in state.items()}
