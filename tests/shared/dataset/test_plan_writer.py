"""Plans written one input at a time have the same units as if all inputs were in memory."""

from __future__ import annotations

import tracemalloc
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec import EMU3
from shared.dataset.plan import Plan, PlannedInput, Size, Unit
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.settings import DatasetSettings

SIZES: list[Size] = [(1, 16, 24), (1, 24, 16), (16, 16, 24), (4, 64, 96), (0, 0, 0)]
SETTINGS = DatasetSettings(EMU3, unit_rows=2)


def write(path: Path, sized: list[tuple[Size, PlannedInput]], unit_rows: int = 2) -> bool:
    with PlanWriter(unit_rows) as writer:
        for size, planned in sized:
            writer.add(size, planned)
        return writer.freeze(path, SETTINGS)


def units(plan: Plan) -> list[Unit]:
    return [plan.unit(number) for number in range(len(plan))]


texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=8)
planned_inputs = st.builds(
    PlannedInput,
    st.integers(0, 2**62),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.characters(codec="utf-8"), max_size=8),
    texts,
    texts,
    texts,
    texts,
    st.none() | st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)),
    st.none() | st.integers(0, 2**62),
    st.none() | st.integers(1, 2**31 - 1),
    st.none() | st.floats(0.125, 1000, width=32),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SIZES), planned_inputs), max_size=12), st.integers(1, 4))
def test_units_hold_inputs_of_one_size_the_largest_first(
    tmp_path_factory: pytest.TempPathFactory, sized: list[tuple[Size, PlannedInput]], unit_rows: int
) -> None:
    """The largest size comes first, inputs keep their order, and every field comes back."""
    by_size: dict[Size, list[PlannedInput]] = defaultdict(list)
    for size, planned in sized:
        by_size[size].append(planned)
    path = tmp_path_factory.mktemp("plan") / "plan.arrow"
    assert write(path, sized, unit_rows)
    largest_first = sorted(by_size, key=lambda size: (-size[0] * size[1] * size[2], size))
    chunks = [
        (size, tuple(by_size[size][start : start + unit_rows]))
        for size in largest_first
        for start in range(0, len(by_size[size]), unit_rows)
    ]
    expected = [Unit(number, size[1], size[2], inputs, size[0]) for number, (size, inputs) in enumerate(chunks)]
    assert units(Plan(path)) == expected


def test_a_plan_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "plan.arrow"
    assert write(path, [((1, 16, 24), PlannedInput(0, "first", "1.png"))])
    before = path.read_bytes()
    assert not write(path, [((1, 16, 24), PlannedInput(0, "second", "2.png"))])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.arrow"], "nothing is left beside it"


def test_an_addition_goes_on_in_numbering_and_says_what_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "plan.arrow"
    write(path, [((1, 16, 24), PlannedInput(index, str(index), "")) for index in range(3)])
    with PlanWriter(2) as writer:
        writer.add((1, 16, 24), PlannedInput(7, "seven", ""))
        writer.add((16, 16, 24), PlannedInput(8, "eight", ""))
        assert writer.extend(Plan(path), {"missing": 1})
    plan = Plan(path)
    assert [unit.unit for unit in units(plan)] == [0, 1, 2, 3]
    assert [[planned.src_index for planned in unit.inputs] for unit in units(plan)] == [[0, 1], [2], [8], [7]]
    assert (plan.additions, plan.input_count, plan.next_index()) == (1, 5, 9)
    assert plan.retried == {"missing": 1}
    assert [plan.is_added(unit) for unit in range(4)] == [False, False, True, True]
    assert plan.sha256_of(1) == plan.sha256 != plan.sha256_of(2)
    assert list(plan.keys()) == ["0", "1", "2", "eight", "seven"]


def test_20_000_inputs_of_2000_sizes_pass_through_a_few_megabytes(tmp_path: Path) -> None:
    """This measures Python's memory; SQLite and Arrow bound theirs by their own buffers."""
    write(tmp_path / "warm-up.arrow", [((1, 16, 24), PlannedInput(0, "a", "a.png"))])
    tracemalloc.start()
    try:
        with PlanWriter(256) as writer:
            for index in range(20_000):
                size = (1, 8 + 8 * (index % 40), 8 + 8 * (index // 40 % 50))
                writer.add(size, PlannedInput(index, f"folder/{index:08d}", f"folder/{index:08d}.jpg", "a caption"))
            writer.freeze(tmp_path / "plan.arrow", SETTINGS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4e6
    assert len(Plan(tmp_path / "plan.arrow")) == 2000


def test_a_full_temporary_disk_is_an_error_that_names_it(tmp_path: Path) -> None:
    with PlanWriter(2) as writer:
        writer._database.execute("PRAGMA max_page_count = 4")
        for index in range(1000):
            writer.add((1, 16, 24), PlannedInput(index, f"key {index}", "a.png"))
        with pytest.raises(OSError, match=r"full; set TMPDIR"):
            writer.freeze(tmp_path / "plan.arrow", SETTINGS)
    assert list(tmp_path.iterdir()) == []
