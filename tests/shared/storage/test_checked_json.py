"""JSON that carries its own checksum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json, field_problem, load_checked_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text().filter(lambda name: name != "check"), values, max_size=4)


@given(objects)
def test_round_trip(value: dict[str, object]) -> None:
    try:
        data = dump_checked_json(value)
    except UnicodeEncodeError:
        return  # lone surrogates are not text
    assert load_checked_json(data, "here") == value


def test_any_flipped_bit_is_noticed() -> None:
    data = dump_checked_json({"unit": 7, "part": "part-000007.arrow", "rows": 3, "share": 0.5})
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(DatasetError, match="here: damaged"):
                load_checked_json(bytes(damaged), "here")


@dataclass
class Record:
    count: int
    name: str | None
    counts: dict[str, int]
    triples: tuple[tuple[int, int, int], ...]
    samples: list[dict[str, Any]]


GOOD: dict[str, Any] = {"count": 1, "name": None, "counts": {"a": 1}, "triples": ((1, 2, 3),), "samples": [{"a": None}]}


def test_fields_of_their_types() -> None:
    assert field_problem(Record(**GOOD)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True),
        ("count", 1.0),
        ("count", 1 << 63),
        ("count", None),
        ("name", 1),
        ("name", ["a"]),
        ("counts", {"a": "1"}),
        ("counts", [1]),
        ("triples", ((1, 2),)),
        ("triples", [[1, 2, 3]]),
        ("samples", [None]),
        ("samples", {}),
    ],
)
def test_fields_of_other_types(name: str, value: object) -> None:
    assert str(field_problem(Record(**GOOD | {name: value}))).startswith(f"{name}: expected ")
