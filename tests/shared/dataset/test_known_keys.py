"""The set of known keys."""

from __future__ import annotations

from shared.dataset.known_keys import KnownKeys


def test_keys_are_new_once() -> None:
    older = KnownKeys(["a"])
    keys = KnownKeys(before=older)
    assert not keys.is_new("a")
    assert keys.is_new("b")
    assert not keys.is_new("b")
    assert keys.has("b")
    assert not older.has("b"), "the earlier set does not change"
