"""Refused inputs as lines of JSON."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared.dataset.quarantine import Refusal, count_reasons, dump_refusals, load_refusals

text = st.text(st.characters(blacklist_categories=["Cs"]))
refusals = st.lists(st.builds(Refusal, text, st.integers(0, 2**62), text, text, text), max_size=4)


@given(refusals)
def test_round_trip(tmp_path_factory: object, refusals: list[Refusal]) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "quarantine.jsonl"  # type: ignore[attr-defined]
    path.write_bytes(dump_refusals(refusals))
    assert load_refusals(path) == refusals


def test_reasons_are_counted_in_alphabetical_order() -> None:
    reasons = ["truncated", "empty", "truncated"]
    counts = count_reasons([Refusal(str(n), n, "", reason, "") for n, reason in enumerate(reasons)])
    assert list(counts.items()) == [("empty", 1), ("truncated", 2)]
