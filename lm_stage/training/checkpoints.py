"""The checkpoints of a training run: written whole or not at all, verified before a run resumes from them.

`checkpoints/step-N/` holds a model as `from_pretrained` loads it (here, in transformers, in mindone), or the adapter
that is trained, the state of the run, its recorded options, and the checksums of all of them. The newest few are kept.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from lm_stage.model.checksums import CHECKSUMS_FILE, Files, check_files, has_checksums, is_intact, write_model_directory
from lm_stage.training.run_directory import OPTIONS_COPY, OPTIONS_FILE, RESULTS, STEP_DIRECTORIES
from shared.errors import CheckpointError
from shared.storage.atomic import remove_directory

STATE_FILE = "train_state.safetensors"


class Checkpoints:
    """The checkpoints of one run; `keep` is how many of them `save` leaves."""

    def __init__(self, run: Path, keep: int):
        self.run, self.root = run, run / "checkpoints"
        self.keep = keep

    def all(self) -> list[Path]:
        """Return the directories of complete checkpoints, oldest first."""
        return sorted(self.root.glob(STEP_DIRECTORIES)) if self.root.is_dir() else []

    def newest(self) -> Path | None:
        """Return the directory of the last complete checkpoint."""
        return next(reversed(self.all()), None)

    def newest_intact(self) -> Path | None:
        """Return the last checkpoint. Raises CheckpointError, with the command that sets it aside, if it is damaged."""
        checkpoint = self.newest()
        if checkpoint is None:
            return None
        try:
            check_files(checkpoint)
        except CheckpointError as error:
            raise self.damaged(checkpoint, error) from error
        if not has_checksums(checkpoint):
            note = f"{checkpoint}: has no {CHECKSUMS_FILE} (an earlier version wrote it); its files cannot be verified"
            tqdm.write(note, file=sys.stderr)
        return checkpoint

    def damaged(self, checkpoint: Path, error: CheckpointError) -> CheckpointError:
        """Return the error about a damaged checkpoint, with the command that resumes from the one before it."""
        earlier = [one for one in self.all() if one < checkpoint and is_intact(one)]
        if not earlier:
            return CheckpointError(f"{error}; no earlier checkpoint is intact: start another RUN")
        aside = self.run / f"damaged-{checkpoint.name}"
        command = f"mv {shlex.quote(str(checkpoint))} {shlex.quote(str(aside))}"
        state = "is intact" if has_checksums(earlier[-1]) else f"has no {CHECKSUMS_FILE}"
        return CheckpointError(
            f"{error}; {earlier[-1]} {state}: to resume from it, run `{command}`, then the same command again"
        )

    def sweep(self) -> None:
        """Delete temporary files that a killed run left."""
        ours = [path for name in (*RESULTS, OPTIONS_FILE, "damaged-*") for path in self.run.glob(f"{name}.*.tmp")]
        for path in [*self.root.glob("step-*.tmp"), *ours]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def save(self, step: int, files: Files) -> Path:
        """Write the checkpoint after `step` steps, delete old ones, and return its directory."""
        directory = self.root / f"step-{step:08d}"
        options = self.run / OPTIONS_FILE
        copy = {OPTIONS_COPY: options.read_bytes()} if options.is_file() else {}
        write_model_directory(directory, {**files, **copy})
        for old in self.all()[: -self.keep]:
            remove_directory(old)
        return directory
