"""JSON that carries its own checksum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json, load_checked_json

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
