"""Refused inputs as lines of JSON."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared.dataset.quarantine import Refusal, dump_refusals, load_refusals

text = st.text(st.characters(blacklist_categories=["Cs"]))
refusals = st.lists(st.builds(Refusal, text, st.integers(0, 2**62), text, text, text), max_size=4)


@given(refusals)
def test_round_trip(tmp_path_factory: object, refusals: list[Refusal]) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "quarantine.jsonl"  # type: ignore[attr-defined]
    path.write_bytes(dump_refusals(refusals))
    assert load_refusals(path) == refusals
