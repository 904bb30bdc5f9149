"""Text is what UTF-8 can encode."""

from __future__ import annotations

import pytest

from shared.text import is_text


@pytest.mark.parametrize("value", ["", "a red apple", "日本語 🍎", "\0"])
def test_text(value: str) -> None:
    assert is_text(value)


@pytest.mark.parametrize("value", ["\ud800", "a\udcffb", b"bytes", None, 5, ["a"]])
def test_other_values(value: object) -> None:
    assert not is_text(value)
