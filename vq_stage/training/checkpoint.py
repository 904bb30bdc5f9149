"""Checkpoints of a training run: the tokenizer's files, and the state that a resumed run continues from.

The state is one file that holds the weights too, so that weights, Adam's moments and codebook averages are always of
the same step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shared.errors import CheckpointError, ConfigMismatchError
from shared.storage.atomic import write_file
from shared.storage.digests import settings_diff
from shared.storage.small_files import read_json_object
from vq_stage.model.families import family_of
from vq_stage.training.methods import Codebook
from vq_stage.training.options import TrainVQOptions
from vq_stage.training.step import TrainStep

OPTIONS_FILE = "train_options.json"
STATE_FILE = "train_state.safetensors"
CHECKSUM = "sha256"  # of all tensors, in the metadata of the state; states of older versions have none
_WAY_OUT = "restore it from a copy, or move the folder away and start again, with --init-from to keep these weights"


def check_resumable(out: Path, options: TrainVQOptions) -> None:
    """Raise ConfigMismatchError if `out` holds a run with other settings, CheckpointError if these are damaged."""
    path = out / OPTIONS_FILE
    if path.is_file():
        diff = settings_diff(read_json_object(path, error=CheckpointError), options.to_json())
        if diff:
            raise ConfigMismatchError(
                f"{out}: this run was created with different settings; use these, or another folder:\n  "
                + "\n  ".join(diff)
            )


def save_checkpoint(out: Path, options: TrainVQOptions, step: int, cell: TrainStep, codebook: Codebook) -> None:
    """Write the checkpoint after `step` steps: the tokenizer, its weights as `save_dtype`, and the state.

    The state comes last: a run that is killed before it is written repeats the steps and writes the tokenizer again.
    """
    weights = {name: p.asnumpy() for name, p in cell.model.parameters_and_names()}
    state = {f"weights.{name}": value for name, value in weights.items()}
    state |= {f"adam.{name}": p.asnumpy() for name, p in _adam_state(cell).items()}
    state |= {f"codebook.{name}": value for name, value in codebook.state().items()}
    write_file(out / "config.json", (json.dumps(cell.model.config.to_dict(), indent=2) + "\n").encode())
    write_file(out / OPTIONS_FILE, (json.dumps(options.to_json(), indent=2) + "\n").encode())
    stored = dict(family_of(cell.model.config).saved(name, value) for name, value in weights.items())
    stored = {name: value.astype(options.save_dtype) for name, value in stored.items()}
    write_file(out / "model.safetensors", save(stored, metadata={"format": "pt"}))
    state["step"] = np.array([step])
    write_file(out / STATE_FILE, save(state, metadata={CHECKSUM: _checksum(state)}))


def load_checkpoint(out: Path, cell: TrainStep, codebook: Codebook) -> int:
    """Restore weights, moments and codebook averages; return the number of finished steps, 0 without a checkpoint.

    Raises CheckpointError if the state is damaged or of another network.
    """
    path = out / STATE_FILE
    if not path.is_file():
        return 0
    state = _read_state(path)
    parameters = {f"weights.{name}": p for name, p in cell.model.parameters_and_names()}
    parameters |= {f"adam.{name}": p for name, p in _adam_state(cell).items()}
    for name, p in parameters.items():
        if name not in state or state[name].shape != tuple(p.shape):
            found = f"shape {state[name].shape}" if name in state else "no such tensor"
            raise CheckpointError(
                f"{path}: {name}: expected shape {tuple(p.shape)}, got {found}; --config changed since this run was"
                " created: restore it, or use another folder"
            )
        p.set_data(Tensor(state[name]))
    prefix = "codebook."
    codebook.restore({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    return int(state["step"][0])


def _read_state(path: Path) -> dict[str, np.ndarray]:
    """Return all tensors. Raises CheckpointError if they do not match their checksum."""
    try:
        with safe_open(path, "np") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            recorded = (file.metadata() or {}).get(CHECKSUM)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, {error}; {_WAY_OUT}") from error
    found = _checksum(state)
    if recorded not in (None, found) or "step" not in state:
        raise CheckpointError(f"{path}: damaged, sha256 of its tensors {found[:12]}, expected {recorded}; {_WAY_OUT}")
    return state


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _adam_state(cell: TrainStep) -> dict[str, ms.Parameter]:
    """Return the moments, bias-correction powers and step count, without the weights and the fixed schedule."""
    weights = {id(p) for p in cell.weights}
    return {
        p.name: p for p in cell.adam.get_parameters() if id(p) not in weights and not p.name.endswith("learning_rate")
    }
