"""Checkpoints of a training run: directories that are there whole or not at all.

`checkpoints/step-N/` holds a model as `from_pretrained` loads it (here, in transformers, in mindone), or the adapter
that is trained, and the state of the run beside it. The newest few are kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lm_stage.text.tokenizer import JSON_FILE, RANKS_FILE, VISION_FILE
from shared.errors import UsageError
from shared.storage.atomic import remove_directory, write_directory

STATE_FILE = "train_state.safetensors"
TEXT_FILES = (RANKS_FILE, VISION_FILE, JSON_FILE, "tokenizer_config.json", "generation_config.json")
OPTIONS_FILE = "options.json"
# Options under the names that earlier versions recorded.
EARLIER_OPTION_NAMES = {"row_tokens": "seq_length", "floor": "min_lr_ratio", "rows_a_step": "global_batch_size"}
RESULTS = ("model", "adapter", "checkpoints", "tensorboard", "train_log.jsonl", "loss.png", "left_out.jsonl")
_STEPS = "step-" + "[0-9]" * 8


def model_files(
    weights: Mapping[str, np.ndarray], config: Mapping[str, Any], text_from: Path, dtype: str = "float32"
) -> dict[str, bytes]:
    """Content of a model directory: `config.json`, `model.safetensors` and the text tokenizer's files."""
    stored = {name: np.ascontiguousarray(value.astype(dtype)) for name, value in weights.items()}
    text = {name: (text_from / name).read_bytes() for name in TEXT_FILES if (text_from / name).is_file()}
    described = (json.dumps(config, indent=2) + "\n").encode()
    return {"config.json": described, "model.safetensors": save(stored, metadata={"format": "pt"}), **text}


def checked_run(location: str) -> Path:
    """The directory of a run. Raises UsageError for one that is something else, whose files a run would replace."""
    run = Path(location)
    if "://" in location:
        raise UsageError(f"{location}: a run is a directory of this machine")
    if (run / "plan.arrow").exists() or ",task=" in location or ",weight=" in location:
        raise UsageError(f"{location}: is a dataset; expected DATASETS, then the directory of the RUN")
    if run.exists() and not run.is_dir():
        raise UsageError(f"{location}: expected a directory for the RUN, got a file")
    if not (run / OPTIONS_FILE).exists() and (found := [name for name in RESULTS if _holds_something(run / name)]):
        raise UsageError(f"{location}: holds {', '.join(found)}, of no run; give another RUN")
    return run


def recorded_options(run: Path) -> dict[str, Any] | None:
    """The options that a run was started with, under their present names; None if the run has none yet."""
    path = run / OPTIONS_FILE
    if not path.is_file():
        return None
    return {EARLIER_OPTION_NAMES.get(name, name): value for name, value in json.loads(path.read_bytes()).items()}


def _holds_something(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


class Checkpoints:
    """Those of one run."""

    def __init__(self, run: Path, keep: int):
        self.run, self.root = run, run / "checkpoints"
        self.keep = keep

    def all(self) -> list[Path]:
        """Directories of whole checkpoints, oldest first."""
        return sorted(self.root.glob(_STEPS)) if self.root.is_dir() else []

    def newest(self) -> Path | None:
        """The directory of the last whole checkpoint."""
        return next(reversed(self.all()), None)

    def sweep(self) -> None:
        """Removes what a killed run left half-written or half-removed."""
        ours = [path for name in (*RESULTS, OPTIONS_FILE, "damaged-*") for path in self.run.glob(f"{name}.*.tmp")]
        for path in [*self.root.glob("step-*.tmp"), *ours]:
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
