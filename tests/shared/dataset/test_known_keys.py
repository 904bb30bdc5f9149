"""A set of keys in arrays behaves like a set."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dataset import known_keys
from shared.dataset.known_keys import KnownKeys


def test_keys_are_new_once() -> None:
    older = KnownKeys(["a"])
    keys = KnownKeys(before=older)
    assert not keys.is_new("a")
    assert keys.is_new("b")
    assert not keys.is_new("b")
    assert keys.has("b")
    assert not older.has("b"), "the earlier set does not change"
    assert keys.has_each(["a", "c", "b"]).tolist() == [True, False, True]
    assert KnownKeys().has_each([]).tolist() == []


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_it_holds_what_a_set_holds(before: list[str], added: list[str], asked: list[str]) -> None:
    keys, expected = KnownKeys(before), set(before)
    for key in added:
        assert keys.is_new(key) == (key not in expected)
        expected.add(key)
    assert [keys.has(key) for key in asked] == keys.has_each(asked).tolist() == [key in expected for key in asked]


def test_hashes_that_want_the_same_slot_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All words are equal, so every key goes through the slots of all others, also while the table grows."""
    monkeypatch.setattr(known_keys, "hash", lambda key: -1, raising=False)
    keys = KnownKeys(map(str, range(500)))
    assert all(keys.is_new(str(number)) for number in range(500, 1000))
    assert keys.has_each([str(number) for number in range(1010)]).tolist() == [True] * 1000 + [False] * 10


def test_memory_is_that_of_the_arrays() -> None:
    tracemalloc.start()
    try:
        keys = KnownKeys(f"folder/picture-{number:09d}" for number in range(50_000))
        assert all(keys.is_new(f"another/picture-{number:09d}") for number in range(50_000))
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 32 * 100_000
