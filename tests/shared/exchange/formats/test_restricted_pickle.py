"""Pickles are read without running anything, and refused if they ask for more than arrays of integers."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import RefusedInput
from shared.exchange.formats.torch_files import dump_torch, load_torch
from tests.support.evil_pickles import evil_pickles, torch_zip

CODES = np.arange(6).reshape(2, 3)


def outcome(content: bytes) -> str:
    """`read`, or the reason of the refusal."""
    try:
        load_torch(content)
    except RefusedInput as error:
        return error.reason
    return "read"


def test_a_pickle_never_runs_anything(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    for pickled in evil_pickles(trap):
        with pytest.raises(RefusedInput) as error:
            load_torch(torch_zip(pickled))
        assert error.value.reason == "unsafe_pickle", pickled
    assert not trap.exists()
    pickle.loads(evil_pickles(trap)[2])  # so it would have
    assert trap.exists()


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_a_dictionary(data: bytes) -> None:
    for content in (data, b"PK\3\4" + data, torch_zip(data), torch_zip(b"\x80\x02" + data + b".")):
        assert outcome(content) in ("read", "unsafe_pickle", "truncated", "unsupported")


def test_any_flipped_byte_of_a_pickle_is_refused_or_gives_plain_values() -> None:
    pickled = zipfile.ZipFile(io.BytesIO(dump_torch({"name": "a", "images": CODES, "texts": "b"}))).read(
        "archive/data.pkl"
    )
    for index in range(len(pickled)):
        for value in (0, pickled[index] ^ 1, pickled[index] ^ 0x40, 255):
            damaged = pickled[:index] + bytes([value]) + pickled[index + 1 :]
            assert outcome(torch_zip(damaged)) in ("read", "unsafe_pickle", "unsupported")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<i8", ">i8", "<i4", "<u2", ">i2", "<u1"])
def test_arrays_of_any_integers_and_orders_are_read(protocol: int, dtype: str) -> None:
    for array in (CODES.astype(dtype), np.asfortranarray(CODES.astype(dtype))):
        found = load_torch(torch_zip(pickle.dumps({"images": array}, protocol=protocol)))["images"]
        assert np.array_equal(found, CODES)


@pytest.mark.parametrize("array", [CODES.astype(float), np.array(["a"]), np.array([None]), np.array([True])])
def test_arrays_of_anything_else_are_refused(array: np.ndarray) -> None:
    with pytest.raises(RefusedInput, match="unsafe_pickle"):
        load_torch(torch_zip(pickle.dumps({"images": array}, protocol=2)))


@pytest.mark.parametrize("size", [(2, 9), (10**9, 10**9), (-1, -6), (0, 0)])
@pytest.mark.parametrize("stride", [(0, 0), (3, 1), (10**6, 1), (-3, 1)])
def test_a_tensor_reads_nothing_outside_its_storage(size: tuple[int, int], stride: tuple[int, int]) -> None:
    """Written by hand: rebuild(storage '0' of 6 numbers, offset 1, size, stride)."""

    def pair(values: tuple[int, int]) -> bytes:
        return b"".join(b"\x8a\x08" + value.to_bytes(8, "little", signed=True) for value in values) + b"\x86"

    storage = b"(X\x07\0\0\0storagectorch\nLongStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x01" + pair(size) + pair(stride) + b"\x89}tR"
    data = torch_zip(b"\x80\x02}X\x06\0\0\0images" + tensor + b"s.", **{"data/0": CODES.astype("<i8").tobytes()})
    expected = "read" if size == (0, 0) else "unsafe_pickle"
    assert outcome(data) == expected
