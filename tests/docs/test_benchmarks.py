"""The table of benchmarks: rows, verdicts, the report as JSON, and the part of a page that is generated."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.benchmarks import run
from tests.benchmarks.machine import this_machine
from tests.benchmarks.row import OURS, Row, compared
from tests.benchmarks.run import Report, reports
from tests.benchmarks.table import BEGIN, END, number, table, with_part

BENCHMARKS = Path(run.__file__).parent
ROOT = BENCHMARKS.parents[1]
SPEED = Row("encode", 20.0, "images/s", "transformers", 5.0, 4.0, goal=4.8)
MEMORY = Row("memory", 0.8, "GiB", goal=1.0, is_limit=True)


@pytest.mark.parametrize(
    ("row", "is_met"),
    [
        (SPEED, False),
        (Row("decode", 20.0, "images/s", "transformers", 4.0, 5.0, goal=4.8), True),
        (Row("decode", 20.0, "images/s", "transformers", 4.0, 5.0), None),
        (MEMORY, True),
        (Row("memory", 1.2, "GiB", goal=1.0, is_limit=True), False),
        (Row("rows", 21_000.0, "rows/s", goal=20_000.0), True),
        (Row("rows", 19_000.0, "rows/s", goal=20_000.0), False),
    ],
)
def test_verdicts(row: Row, is_met: bool | None) -> None:
    assert row.is_met is is_met


def test_ratios_are_medians_of_the_rounds() -> None:
    seconds = {OURS: [1.0, 2.0, 10.0], "peer": [2.0, 8.0, 15.0]}
    (row,) = compared("task", "tokens/s", {OURS: 10, "peer": 10}, seconds, {"peer": 1.5})
    assert (row.ours, row.peer_value, row.ratio, row.goal) == (5.0, 1.25, 2.0, 1.5)


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (20123.4, 345.6, 34.56, 3.456, 0.3456)] == [
        "20 123",
        "346",
        "34.6",
        "3.46",
        "0.346",
    ]


def test_the_table_has_a_line_for_every_row() -> None:
    lines = table({"vision": [SPEED], "planning": [MEMORY]}).split("\n")
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]] == [
        ["encode", "20.0 images/s", "transformers", "5.00 images/s", "4.00×", "≥ 4.80×", "missed"],
        ["memory", "0.800 GiB", "", "", "", "≤ 1.00 GiB", "met"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_only_the_part_between_the_markers_is_replaced() -> None:
    text = with_part(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new")
    assert text == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="expected"):
        with_part("a page without markers", "new")


def test_a_report_survives_json() -> None:
    report = Report(this_machine(0.5), False, {"vision": 3.0}, {"vision": [SPEED, MEMORY]})
    assert Report.from_json(report.to_json()) == report
    assert f"{report.machine.cores} cores" in report.page()


def unknown_ratios(text: str, rows: Iterable[Row]) -> list[str]:
    """Return the ratios in a text, such as 4.0×, that no row has when it is rounded to as many digits."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    figures = re.findall(r"\d+\.\d+(?=×)", text)
    digits = {figure: len(figure.partition(".")[2]) for figure in figures}
    return [figure for figure in figures if figure not in {f"{ratio:.{digits[figure]}f}" for ratio in ratios}]


def test_ratios_that_no_benchmark_measured_are_found() -> None:
    text = "It encodes 4.0× as fast, images of 256×256 even 4.1× as fast."
    assert unknown_ratios(text, [SPEED, MEMORY]) == ["4.1"]


def test_the_documents_show_the_figures_of_the_committed_report() -> None:
    file = ROOT / "docs" / "benchmarks.json"
    if not file.is_file():
        pytest.skip("the output of `make bench` has not been committed yet")
    report = Report.from_json(file.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert with_part(page, report.page()) == page, "run `make bench`, which writes both"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert unknown_ratios(readme, [row for rows in report.sections.values() for row in rows]) == []


def test_a_module_that_fails_is_reported_and_the_others_run(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = reports(["of_no_such_module", "of_another"], quick=True)
    assert first.sections == second.sections == {}
    assert "bench_of_no_such_module failed: ModuleNotFoundError" in capsys.readouterr().err


def test_every_module_with_rows_is_run() -> None:
    """Read, not imported: some import PyTorch, which tests do not need."""
    trees = {path.stem.removeprefix("bench_"): ast.parse(path.read_bytes()) for path in BENCHMARKS.glob("bench_*.py")}
    with_rows = {
        name
        for name, tree in trees.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "rows" for node in tree.body)
    }
    assert set(run.MODULES) == with_rows
