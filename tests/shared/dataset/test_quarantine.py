"""Refused inputs as lines of JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dataset.quarantine import Refusal, dump_refusals, load_refusals
from shared.errors import DatasetError

text = st.text(st.characters(blacklist_categories=["Cs"]))
refusals = st.lists(st.builds(Refusal, text, st.integers(0, 2**62), text, text, text), max_size=4)
WRONG_TYPE = dump_refusals([Refusal("a", 0, "a.png", {"a": "dict"}, "no bytes")])  # type: ignore[arg-type]


@given(refusals)
def test_round_trip(tmp_path_factory: object, refusals: list[Refusal]) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "quarantine.jsonl"  # type: ignore[attr-defined]
    path.write_bytes(dump_refusals(refusals))
    assert load_refusals(path) == refusals


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"key": "a"}', WRONG_TYPE, b"\xff", b"[" * 100_000])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    refusal = Refusal("a", 0, "a.png", "empty", "no bytes")
    (tmp_path / "q.jsonl").write_bytes(dump_refusals([refusal]) + line)
    with pytest.raises(DatasetError, match=r"q\.jsonl: line 2: "):
        load_refusals(tmp_path / "q.jsonl")
