"""Names of files and members for keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.exchange.formats.safe_names import MAX_LENGTH, safe_name

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=300)


@given(texts)
def test_names_are_short_and_plain(key: str) -> None:
    name = safe_name(key)
    assert 0 < len(name) <= MAX_LENGTH
    assert not set(name) & set("./\\ \n\0")
    assert name.isascii()


@given(st.sets(texts, max_size=20))
def test_names_of_different_keys_differ(keys: set[str]) -> None:
    assert len({safe_name(key) for key in keys}) == len(keys)


def test_names_of_known_keys() -> None:
    assert safe_name("cat-1_b") == "cat-1_b"
    assert safe_name("a/b.c") == "a%2Fb%2Ec"
    assert safe_name("a%2Fb%2Ec") == "a%252Fb%252Ec"
    assert safe_name("~") == "%7E"
    assert safe_name("") == "~"
    assert safe_name("é" * 40) != safe_name("é" * 41)
    assert safe_name("x" * 81).startswith("x" * 40 + "~")
