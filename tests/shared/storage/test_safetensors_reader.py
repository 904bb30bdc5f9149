"""Checkpoints in safetensors format: values, and headers that no library has written."""

from __future__ import annotations

import json
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import CheckpointError
from shared.storage.safetensors_reader import read_checkpoint

BODY = bytes(range(48))


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}


def write(directory: Path, header: object, body: bytes = BODY, length: int | None = None) -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(content) if length is None else length
    (directory / "model.safetensors").write_bytes(size.to_bytes(8, "little") + content + body)
    return directory


def test_reads_values(tmp_path: Path) -> None:
    header = {
        "b": entry(),
        "a": entry(dtype="BF16", shape=[3], data_offsets=[24, 30]),
        "empty": entry(shape=[0, 4], data_offsets=[30, 30]),
        "scalar": entry(dtype="U8", shape=[], data_offsets=[30, 31]),
        "__metadata__": {"format": "pt"},
    }
    tensors = read_checkpoint(write(tmp_path, header))
    assert list(tensors) == ["a", "b", "empty", "scalar"]
    np.testing.assert_array_equal(tensors["b"].float32(), np.frombuffer(BODY[:24], "<f4").reshape(2, 3))
    assert [tensors[name].float32().shape for name in ("a", "empty", "scalar")] == [(3,), (0, 4), ()]


BAD_ENTRIES = {
    "not an object": [1],
    "no dtype": {"shape": [6], "data_offsets": [0, 24]},
    "unknown dtype": entry(dtype="F8"),
    "dtype is a list": entry(dtype=["F32"]),
    "shape is a number": entry(shape=6),
    "shape of text": entry(shape=["2", "3"]),
    "shape of fractions": entry(shape=[2.0, 3]),
    "shape of booleans": entry(shape=[True, 6]),
    "negative shape": entry(shape=[-2, -3]),
    "nested shape": entry(shape=[[2, 3]]),
    "huge shape": entry(shape=[2**62, 2**62]),
    "shape whose product overflows to its size": entry(shape=[2**32, 2**32, 0, 6]),
    "shape of many sides": entry(shape=[1] * 10_000 + [6]),
    "wrong size": entry(shape=[2, 2]),
    "offsets missing": {"dtype": "F32", "shape": [6]},
    "offsets of text": entry(data_offsets=["0", "24"]),
    "three offsets": entry(data_offsets=[0, 24, 48]),
    "negative offsets": entry(data_offsets=[-24, 0]),
    "reversed offsets": entry(data_offsets=[24, 0]),
    "offsets behind the end": entry(data_offsets=[40, 64]),
    "huge offsets": entry(data_offsets=[2**70, 2**70 + 24]),
    "null": None,
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_a_wrong_entry_is_an_error_that_names_file_and_tensor(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor w\.bad: "):
        read_checkpoint(write(tmp_path, {"w.good": entry(), "w.bad": BAD_ENTRIES[name]}))


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    header = {"a": entry(), "b": entry(data_offsets=[20, 44])}
    with pytest.raises(CheckpointError, match="tensors a and b overlap at byte 20"):
        read_checkpoint(write(tmp_path, header))


@pytest.mark.parametrize(
    ("header", "length", "problem"),
    [
        (b"{}", 2**63, "header of 9223372036854775808 bytes"),
        (b"{}", 2**64 - 1, "header of"),
        (b"{}", 51, "header of 51 bytes"),
        (b"[]", None, "expected a JSON object"),
        (b"{", None, "header: not JSON"),
        (b'{"a": \xff}', None, "header: not JSON"),
        (b"[" * 100_000, None, "header: not JSON: nested too deeply"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}", None, "an integer of 5000 digits"),
        (b"version https://git-lfs.github.com/spec/v1\n", 0x206E6F6973726576, "a Git LFS pointer"),
    ],
)
def test_a_wrong_header_is_an_error(tmp_path: Path, header: bytes, length: int | None, problem: str) -> None:
    directory = write(tmp_path, header, length=length)
    if b"git-lfs" in header:
        (directory / "model.safetensors").write_bytes(header)
    with pytest.raises(CheckpointError, match=problem):
        read_checkpoint(directory)


def test_a_large_header_takes_little_memory(tmp_path: Path) -> None:
    directory = write(tmp_path, b'{"a": "' + b"x" * 60_000_000 + b'"}')
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="header of 60000009 bytes"):
            read_checkpoint(directory)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "pipe.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"pipe\.safetensors: expected a regular file"):
        read_checkpoint(tmp_path)
    for content in (b"", b"1234"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [None, [], "a", {"a": 1}, {"a": ["b"]}, {"a": "../b.safetensors"}, {"a": "none"}]
)
def test_a_wrong_index_is_an_error(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_checkpoint(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.text(max_size=3), json_values, max_size=3))
def test_any_header_is_read_or_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    with suppress(CheckpointError):
        for tensor in read_checkpoint(write(tmp_path, header)).values():
            tensor.float32()
