"""Whether a folder may be resumed; what a checkpoint restores is tested in `test_job.py`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from shared.errors import CheckpointError, ConfigMismatchError
from tests.support.vision_models import TINY_VQ
from vq_stage.training import checkpoint
from vq_stage.training.checkpoint import CHECKSUM, _checksum, _read_state, check_resumable, save_checkpoint
from vq_stage.training.options import TrainVQOptions


def test_other_settings_are_refused_with_the_differences(tmp_path: Path) -> None:
    recorded = TrainVQOptions("s", "o", config="c", batch=4, seed=1)
    check_resumable(tmp_path, recorded)  # an empty folder
    (tmp_path / "train_options.json").write_text(json.dumps(recorded.to_json()))
    check_resumable(tmp_path, recorded)
    with pytest.raises(ConfigMismatchError, match=r"batch: recorded 4, given 8\n  seed: recorded 1, given 0"):
        check_resumable(tmp_path, TrainVQOptions("s", "o", config="c", batch=8))


def state() -> dict[str, np.ndarray]:
    return {"step": np.array([7]), "weights.a": np.arange(12, dtype=np.float32).reshape(3, 4)}


def test_any_flipped_bit_of_a_state_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train_state.safetensors"
    intact = save(state(), metadata={CHECKSUM: _checksum(state())})
    path.write_bytes(intact)
    assert _read_state(path)["step"] == [7]
    for at in range(8 * len(intact)):
        damaged = bytearray(intact)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            read = _read_state(path)
            # a bit of the checksum's name, without which the state counts as one of an older version
            assert all(np.array_equal(read[name], value) for name, value in state().items()), at


def test_states_of_older_versions_have_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "train_state.safetensors"
    path.write_bytes(save(state()))
    assert _read_state(path)["step"] == [7]
    for length in (0, 5, 40, len(save(state())) - 1):
        path.write_bytes(save(state())[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            _read_state(path)


def test_the_state_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after the state of the last step, but before its tokenizer, would leave an older tokenizer for good."""
    written: list[str] = []
    monkeypatch.setattr(checkpoint, "write_file", lambda path, content: written.append(path.name))
    model: Any = SimpleNamespace(parameters_and_names=list, config=TINY_VQ)
    cell: Any = SimpleNamespace(model=model, weights=[], adam=SimpleNamespace(get_parameters=list))
    codebook: Any = SimpleNamespace(state=dict)
    save_checkpoint(tmp_path, TrainVQOptions("s", "o", config="c"), 7, cell, codebook)
    assert "model.safetensors" in written
    assert written[-1] == "train_state.safetensors"


def test_damaged_options_are_named(tmp_path: Path) -> None:
    (tmp_path / "train_options.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"train_options\.json: not JSON"):
        check_resumable(tmp_path, TrainVQOptions("s", "o", config="c"))
