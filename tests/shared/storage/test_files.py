"""Sealed JSON, atomic files and fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DatasetError
from shared.storage.atomic import create_file, write_file
from shared.storage.checked_json import dump_checked_json, load_checked_json
from shared.storage.digests import canonical_json, digest_of, settings_diff

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text().filter(lambda name: name != "check"), values, max_size=4)


@given(objects)
def test_sealed_json_round_trip(value: dict[str, object]) -> None:
    try:
        data = dump_checked_json(value)
    except UnicodeEncodeError:
        return  # lone surrogates are not text
    assert load_checked_json(data, "here") == value


def test_any_flipped_bit_of_sealed_json_is_noticed() -> None:
    data = dump_checked_json({"unit": 7, "part": "part-000007.arrow", "rows": 3, "share": 0.5})
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(DatasetError, match="here: damaged"):
                load_checked_json(bytes(damaged), "here")


def test_create_file_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"
    write_file(path, b"third")
    assert path.read_bytes() == b"third"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record"], "no temporary file stays"


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record"
    write_file(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record"]


def test_diff_names_nested_settings() -> None:
    recorded = {"codec": {"fingerprint": "aa", "size": 4}, "dtype": "float32"}
    given_ = {"codec": {"fingerprint": "bb", "size": 4}, "area": 3}
    assert settings_diff(recorded, given_) == [
        "area: recorded nothing, given 3",
        'codec.fingerprint: recorded "aa", given "bb"',
        'dtype: recorded "float32", given nothing',
    ]
    assert settings_diff(recorded, json.loads(canonical_json(recorded))) == []


def test_diff_goes_into_lists_of_settings_and_not_into_others() -> None:
    recorded = {"data": [{"samples": 3, "weight": 1}, {"weight": 1}], "targets": ["a", "b"]}
    given_ = {"data": [{"samples": 3, "weight": 0.5}], "targets": ["a"]}
    assert settings_diff(recorded, given_) == [
        "data.0.weight: recorded 1, given 0.5",
        'data.1: recorded {"weight":1}, given nothing',
        'targets: recorded ["a","b"], given ["a"]',
    ]


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
