"""The directory of a training run: what it may be, its recorded options, and the models it holds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_stage.data.job_arguments import output_directory
from lm_stage.model.checksums import Files, has_files_of, is_as_written, write_with_checksums
from shared.errors import CheckpointError, ConfigMismatchError, UsageError
from shared.storage.atomic import directory_beside, put_in_place, write_file
from shared.storage.digests import digest_of, settings_diff
from shared.storage.small_files import read_json_object

OPTIONS_FILE = "options.json"
OPTIONS_COPY = "run_options.json"  # in every checkpoint
# Options under the names that earlier versions recorded.
EARLIER_OPTION_NAMES = {"row_tokens": "seq_length", "floor": "min_lr_ratio", "rows_a_step": "global_batch_size"}
RESULTS = ("model", "adapter", "checkpoints", "tensorboard", "train_log.jsonl", "loss.png", "left_out.jsonl")
STEP_DIRECTORIES = "step-" + "[0-9]" * 8
_ADDED_OPTIONS = {"deterministic": True}  # which earlier versions did not record, and what they did
_CHECKSUM = "check"  # the member of the options that holds their checksum
_LORA_OPTIONS = ("lora_alpha", "lora_targets")  # without a rank they have no effect, and earlier versions recorded any


def checked_run(location: str) -> Path:
    """Return the directory of a run. Raises UsageError if it is something else, whose files a run would replace."""
    run = output_directory(location, "RUN")
    if not is_started(run) and (found := [name for name in RESULTS if _has_content(run / name)]):
        raise UsageError(f"{location}: contains {', '.join(found)} but no {OPTIONS_FILE}; choose another RUN")
    return run


def is_started(run: Path) -> bool:
    """Whether the settings of a run are recorded, which it then resumes with."""
    return (run / OPTIONS_FILE).exists() or bool(_copies(run))


def _has_content(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def recorded_options(run: Path) -> dict[str, Any] | None:
    """Return the options that a run was started with, under their present names; None for a new run.

    If the file is damaged or missing, a copy in a checkpoint replaces it. Raises CheckpointError if none is intact.
    """
    if not is_started(run):
        return None
    try:
        return _read_options(run / OPTIONS_FILE)
    except CheckpointError as error:
        for copy in _copies(run):
            with suppress(CheckpointError):
                options = _read_options(copy)
                tqdm.write(f"{error}; restored from {copy}", file=sys.stderr)
                return options
        raise CheckpointError(
            f"{error}; it records the settings of the run: restore it from a backup, or use another RUN"
        ) from error


def _copies(run: Path) -> list[Path]:
    """Return the copies of the options in the checkpoints of a run, newest first."""
    return sorted(run.glob(f"checkpoints/{STEP_DIRECTORIES}/{OPTIONS_COPY}"), reverse=True)


def _read_options(path: Path) -> dict[str, Any]:
    options = read_json_object(path, error=CheckpointError)
    checksum = options.pop(_CHECKSUM, None)  # earlier versions wrote none
    try:
        is_damaged = checksum is not None and checksum != digest_of(options)
    except ValueError:  # JSON that we never write: NaN, or half of a surrogate pair
        is_damaged = True
    if is_damaged:
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
    return {EARLIER_OPTION_NAMES.get(name, name): value for name, value in options.items()}


def check_resumable(run: Path, options: Mapping[str, Any]) -> None:
    """Raises ConfigMismatchError, with the differences, if a run was started with different options."""
    recorded = recorded_options(run)
    if recorded is None:
        return
    before = {**{name: value for name, value in _ADDED_OPTIONS.items() if name in options}, **recorded}
    if not before.get("lora_rank"):
        before |= {name: options[name] for name in _LORA_OPTIONS if name in options}
    if diff := settings_diff(before, options):
        raise ConfigMismatchError(
            f"{run} was started with different settings:\n  " + "\n  ".join(diff) + "\nuse those, or another RUN"
        )


def write_options(run: Path, options: Mapping[str, Any]) -> None:
    content = {**options, _CHECKSUM: digest_of(options)}
    write_file(run / OPTIONS_FILE, (json.dumps(content, indent=2) + "\n").encode())


def write_result(directory: Path, files: Files) -> None:
    """Write a model or an adapter with its checksums, unless it is there already.

    A directory in which someone changed or added files is not replaced, but set aside under another name.
    """
    directory = directory.resolve()
    with directory_beside(directory) as temporary:
        write_with_checksums(temporary, files)
        if has_files_of(directory, temporary):
            return
        if _has_content(directory) and not is_as_written(directory):
            _set_aside(directory)
        put_in_place(temporary, directory)


def _set_aside(directory: Path) -> None:
    names = (directory.with_name(f"{directory.name}-set-aside-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    os.rename(directory, aside)
    note = f"{directory}: has files other than those of this run, which are kept in {aside}"
    tqdm.write(note, file=sys.stderr)
