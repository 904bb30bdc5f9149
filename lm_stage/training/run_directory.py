"""The directory of a training run: its recorded options, its lock, and its checkpoints.

`checkpoints/step-N/` holds a model as `from_pretrained` loads it (here, in transformers, in mindone), or the adapter
that is trained, and the state of the run beside it. A checkpoint is written whole or not at all; the newest few are
kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lm_stage.text.tokenizer import JSON_FILE, RANKS_FILE, VISION_FILE
from shared.errors import ConfigMismatchError, UsageError
from shared.jobs.file_locks import try_lock
from shared.storage.atomic import remove_directory, write_directory, write_file
from shared.storage.digests import settings_diff

STATE_FILE = "train_state.safetensors"
TEXT_FILES = (RANKS_FILE, VISION_FILE, JSON_FILE, "tokenizer_config.json", "generation_config.json")
OPTIONS_FILE = "options.json"
# Options under the names that earlier versions recorded.
EARLIER_OPTION_NAMES = {"row_tokens": "seq_length", "floor": "min_lr_ratio", "rows_a_step": "global_batch_size"}
RESULTS = ("model", "adapter", "checkpoints", "tensorboard", "train_log.jsonl", "loss.png", "left_out.jsonl")
_STEP_DIRECTORIES = "step-" + "[0-9]" * 8


def model_files(
    weights: Mapping[str, np.ndarray], config: Mapping[str, Any], text_from: Path, dtype: str = "float32"
) -> dict[str, bytes]:
    """Return the content of a model directory: `config.json`, `model.safetensors` and the text tokenizer's files."""
    stored = {name: np.ascontiguousarray(value.astype(dtype)) for name, value in weights.items()}
    text = {name: (text_from / name).read_bytes() for name in TEXT_FILES if (text_from / name).is_file()}
    described = (json.dumps(config, indent=2) + "\n").encode()
    return {"config.json": described, "model.safetensors": save(stored, metadata={"format": "pt"}), **text}


def checked_run(location: str) -> Path:
    """Return the directory of a run. Raises UsageError if it is something else, whose files a run would replace."""
    run = Path(location)
    if "://" in location:
        raise UsageError(f"{location}: expected a local directory for RUN, got a URL")
    if (run / "plan.arrow").exists() or ",task=" in location or ",weight=" in location:
        raise UsageError(f"{location}: expected DATASETS, then the directory of the RUN; this is a dataset")
    if run.exists() and not run.is_dir():
        raise UsageError(f"{location}: expected a directory for RUN, got a file")
    if not (run / OPTIONS_FILE).exists() and (found := [name for name in RESULTS if _has_content(run / name)]):
        raise UsageError(f"{location}: contains {', '.join(found)} but no {OPTIONS_FILE}; choose another RUN")
    return run


def _has_content(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def recorded_options(run: Path) -> dict[str, Any] | None:
    """Return the options that a run was started with, under their present names; None for a new run."""
    path = run / OPTIONS_FILE
    if not path.is_file():
        return None
    return {EARLIER_OPTION_NAMES.get(name, name): value for name, value in json.loads(path.read_bytes()).items()}


def check_resumable(run: Path, options: Mapping[str, Any]) -> None:
    """Raises ConfigMismatchError, with the differences, if a run was started with different options."""
    before = recorded_options(run)
    if before is not None and (diff := settings_diff(before, options)):
        raise ConfigMismatchError(
            f"{run} was started with different settings:\n  " + "\n  ".join(diff) + "\nuse those, or another RUN"
        )


def write_options(run: Path, options: Mapping[str, Any]) -> None:
    write_file(run / OPTIONS_FILE, (json.dumps(options, indent=2) + "\n").encode())


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the lock of a run, whose directory is created. Raises UsageError if another process holds it."""
    run.mkdir(parents=True, exist_ok=True)
    lock = try_lock(run / ".claim")
    if lock is None:
        raise UsageError(f"{run}: another process trains here; wait for it or choose another RUN")
    try:
        yield
    finally:
        lock.release()


class Checkpoints:
    """The checkpoints of one run; `keep` is how many of them `save` leaves."""

    def __init__(self, run: Path, keep: int):
        self.run, self.root = run, run / "checkpoints"
        self.keep = keep

    def all(self) -> list[Path]:
        """Return the directories of complete checkpoints, oldest first."""
        return sorted(self.root.glob(_STEP_DIRECTORIES)) if self.root.is_dir() else []

    def newest(self) -> Path | None:
        """Return the directory of the last complete checkpoint."""
        return next(reversed(self.all()), None)

    def sweep(self) -> None:
        """Delete temporary files that a killed run left."""
        ours = [path for name in (*RESULTS, OPTIONS_FILE, "damaged-*") for path in self.run.glob(f"{name}.*.tmp")]
        for path in [*self.root.glob("step-*.tmp"), *ours]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def save(self, step: int, files: Mapping[str, bytes]) -> Path:
        """Write the checkpoint after `step` steps, delete old ones, and return its directory."""
        directory = self.root / f"step-{step:08d}"
        write_directory(directory, files)
        for old in self.all()[: -self.keep]:
            remove_directory(old)
        return directory
