"""The table of all benchmarks: Markdown that is readable as plain text too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.row import Row

HEADINGS = ("task", "ours", "peer", "peer's", "ratio", "goal", "verdict")
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


def table(sections: Mapping[str, Sequence[Row]]) -> str:
    """Return one table of all rows, with columns of equal width."""
    lines = [HEADINGS, *(cells(row) for rows in sections.values() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, tuple("-" * width for width in widths))
    padded = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines)
    return "\n".join(f"| {line} |" for line in padded)


def cells(row: Row) -> tuple[str, ...]:
    """Return the text of one row, a cell for each heading."""
    verdict = {True: "met", False: "missed", None: ""}[row.is_met]
    return (
        row.name,
        f"{number(row.ours)} {row.unit}",
        row.peer or "",
        "" if row.peer_value is None else f"{number(row.peer_value)} {row.unit}",
        "" if row.ratio is None else f"{row.ratio:.2f}×",
        _goal(row),
        verdict,
    )


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = "≤" if row.is_limit else "≥"
    return f"{sign} {row.goal:.2f}×" if row.ratio is not None else f"{sign} {number(row.goal)} {row.unit}"


def number(value: float) -> str:
    """Return at least three digits, with spaces between thousands."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".replace(",", " ")


def replace_part(page: Path, content: str) -> None:
    """Replace what is between the markers of a page; the rest stays. Raises ValueError without the markers."""
    page.write_text(with_part(page.read_text(encoding="utf-8"), content), encoding="utf-8")


def with_part(text: str, content: str) -> str:
    """Return a text with `content` between its markers. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"
