"""Frozen plans and their additions, read unit by unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.codec import EMU3
from shared.dataset.plan import Plan, PlannedInput, Unit, UnitSize, addition_path
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.settings import DatasetSettings
from shared.errors import ConfigMismatchError, DatasetError

SETTINGS = DatasetSettings(EMU3, unit_rows=2)
CLIP = PlannedInput(2, "clip", "a.tar", "text", locator=(512, 90), frame_start=16, frame_stride=2, fps=12.5)
REFUSED = PlannedInput(3, "bad", "bad.png", refused_reason="empty", refused_detail="0 bytes", extra_json='{"n":1}')
UNITS = [
    Unit(0, 16, 24, (PlannedInput(0, "a", "a.png"), PlannedInput(1, "b", "b.png", "a pear"))),
    Unit(1, 8, 8, (CLIP,), 16),
    Unit(2, 0, 0, (REFUSED,), 0),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "plan.arrow"
    assert freeze_plan(path, UNITS, SETTINGS, 4)
    return path


def test_units_come_back_with_every_field(path: Path) -> None:
    plan = Plan(path)
    assert (len(plan), plan.input_count, plan.settings) == (3, 4, SETTINGS)
    assert [plan.unit(number) for number in range(3)] == UNITS
    assert plan.sizes() == [UnitSize(16, 24, 2), UnitSize(8, 8, 1, 16), UnitSize(0, 0, 1, 0)]
    assert [plan.src_indices(number) for number in range(3)] == [(0, 1), (2,), (3,)]
    assert list(plan.keys()) == ["a", "b", "clip", "bad"]
    assert list(plan.uris()) == ["a.png", "b.png", "a.tar", "bad.png"]
    assert plan.next_index() == 4


def test_additions_continue_the_numbering(path: Path) -> None:
    addition = Unit(3, 16, 24, (REFUSED._replace(refused_reason=None, refused_detail=None),))
    assert freeze_plan(addition_path(path, 1), [addition], SETTINGS, 1, {"empty": 1})
    plan = Plan(path)
    assert (len(plan), plan.additions, plan.input_count, plan.retried) == (4, 1, 5, {"empty": 1})
    assert plan.unit(3) == addition
    assert [plan.is_added(unit) for unit in range(4)] == [False, False, False, True]
    assert plan.sha256 == plan.sha256_of(0) != plan.sha256_of(3)
    assert plan.next_index() == 4, "an input that is tried again keeps its number"


def test_different_settings_are_refused_with_the_differences(path: Path) -> None:
    Plan(path).check_settings(SETTINGS, path)
    with pytest.raises(ConfigMismatchError, match=r"units\.rows: recorded 2, given 3"):
        Plan(path).check_settings(replace(SETTINGS, unit_rows=3), path)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"x" * 1000])
def test_other_files_are_not_plans(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"plan\.arrow"):
        Plan(path)
