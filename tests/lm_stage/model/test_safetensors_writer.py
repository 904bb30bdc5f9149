"""Tensors are read one by one, when they are written; other processes read what is collective in the same order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_stage.model import safetensors_writer
from lm_stage.model.checksums import check_files, take_part, write_model_directory
from lm_stage.model.safetensors_writer import SavedTensor, array_tensor, stored_tensor, write_safetensors
from shared.storage.paths import sha256_of
from shared.storage.safetensors_reader import read_checkpoint


def recorded(seen: list[str], name: str, values: np.ndarray) -> np.ndarray:
    seen.append(name)
    return values


def tensors(seen: list[str]) -> dict[str, SavedTensor]:
    """Return tensors of several types; those that all processes hold a part of have names that begin with `part`."""
    described = {"part.z": "F32", "whole": "F32", "part.a": "F32", "part.half": "F16", "count": "I64"}
    return {
        name: SavedTensor(
            dtype,
            (2, 3),
            partial(recorded, seen, name, np.full((2, 3), 0.5, np.int64 if dtype == "I64" else np.float32)),
            is_collective=name.startswith("part"),
        )
        for name, dtype in described.items()
    }


def test_processes_read_collective_tensors_in_the_order_of_the_file(tmp_path: Path) -> None:
    written: list[str] = []
    files = {"config.json": b"{}", "model.safetensors": tensors(written), "state.safetensors": tensors(written)}
    write_model_directory(tmp_path / "model", files)
    assert written == 2 * ["count", "part.a", "part.z", "whole", "part.half"]
    check_files(tmp_path / "model")
    taken: list[str] = []
    take_part({name: content if isinstance(content, bytes) else tensors(taken) for name, content in files.items()})
    assert taken == [name for name in written if name.startswith("part")]


def test_files_are_those_of_the_format(tmp_path: Path) -> None:
    values = tensors([])
    del values["part.half"]
    digest = write_safetensors(tmp_path / "model.safetensors", values)
    assert digest == sha256_of(tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == {
        name: tensor.read().tolist() for name, tensor in values.items()
    }
    copies = {name: stored_tensor(tensor) for name, tensor in read_checkpoint(tmp_path).items()}
    assert write_safetensors(tmp_path / "copy", copies) == digest


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_values_are_converted_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    tensor = {"w": SavedTensor(dtype, values.shape, lambda: values)}
    whole = write_safetensors(tmp_path / "whole", tensor)
    monkeypatch.setattr(safetensors_writer, "_PIECE", 4)
    assert write_safetensors(tmp_path / "model.safetensors", tensor) == whole
    found = read_checkpoint(tmp_path)["w"].float32()
    np.testing.assert_allclose(found, values, rtol=2**-8)


def test_a_tensor_that_cannot_be_read_leaves_the_old_directory(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise RuntimeError("the device is lost")

    directory = tmp_path / "model"
    write_model_directory(directory, {"model.safetensors": {"w": array_tensor(np.zeros(3, np.float32))}})
    before = (directory / "model.safetensors").read_bytes()
    with pytest.raises(RuntimeError, match="the device is lost"):
        write_model_directory(directory, {"model.safetensors": {"w": SavedTensor("F32", (3,), fail)}})
    assert (directory / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
