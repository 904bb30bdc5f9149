"""Plans that follow their prompts: a prompt is identified by its key, and only what is missing is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.generate.plan_updates import PromptCounts, compare_prompts, count_died, up_to_date_plan
from lm_stage.generate.planner import PromptPlanner
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.text.renderer import SequenceRenderer
from shared.codec import EMU3
from shared.dataset.change import Change
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.quarantine import Refusal
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.errors import ConfigMismatchError
from tests.support import handmade


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "dataset").mkdir()
    return Dataset(tmp_path / "dataset")


def prompt(key: str, text: str = "xx", number: int = 1) -> Prompt:
    return Prompt(key, f"p#{number}", text, "", 2, 3)


def refused(key: str, number: int = 1) -> Prompt:
    return Prompt(key, f"p#{number}", "", refusal=("bad_entry", "`seed`: expected an integer"))


def update(dataset: Dataset, sequences: SequenceRenderer, prompts: Sequence[Prompt]) -> tuple[Plan, PromptCounts]:
    planner = PromptPlanner(PromptRenderer(sequences, "", False, None), 400, EMU3)
    return up_to_date_plan(dataset, prompts, planner, handmade.settings(), unit_rows=8)


def keys(plan: Plan, first_unit: int = 0) -> list[list[str]]:
    return [[item.key for item in plan.unit(unit).inputs] for unit in range(first_unit, len(plan))]


def test_the_same_prompts_change_nothing(dataset: Dataset, sequences: SequenceRenderer) -> None:
    prompts = [prompt("a"), refused("b"), prompt("c", "x" * 500)]
    plan, counts = update(dataset, sequences, prompts)
    assert keys(plan) == [["a"], ["b", "c"]]
    assert counts.refused == {"bad_entry": 1, "too_long": 1}
    assert counts.first_refusals["bad_entry"] == "p#1: `seed`: expected an integer"
    again, same = update(dataset, sequences, [replace(one, uri="q#7") for one in prompts])
    assert (again.sha256, len(again), again.additions) == (plan.sha256, 2, 0)
    assert same.refused == counts.refused


def test_a_new_prompt_costs_one_prompt(dataset: Dataset, sequences: SequenceRenderer) -> None:
    update(dataset, sequences, [prompt("a"), prompt("b")])
    plan, counts = update(dataset, sequences, [prompt("new"), prompt("b", number=2), refused("no")])
    assert keys(plan, 1) == [["new"], ["no"]]
    assert sorted(index for unit in range(len(plan)) for index in plan.src_indices(unit)) == [0, 1, 2, 3]
    assert (counts.unlisted, counts.listed) == (1, 3)


def test_a_corrected_prompt_is_planned_again_with_its_index(dataset: Dataset, sequences: SequenceRenderer) -> None:
    update(dataset, sequences, [prompt("a"), refused("b"), prompt("c", "x" * 500)])
    plan, counts = update(dataset, sequences, [prompt("a"), prompt("b"), prompt("c")])
    assert keys(plan, 2) == [["b", "c"]]
    assert plan.src_indices(2) == (1, 2)
    assert plan.retried == {"bad_entry": 1, "too_long": 1}
    assert not counts.refused
    assert update(dataset, sequences, [prompt("a"), prompt("b"), prompt("c")])[0].additions == 1


def test_a_duplicate_key_is_refused_and_can_be_corrected(dataset: Dataset, sequences: SequenceRenderer) -> None:
    duplicate = replace(prompt("a", "other", 2), refusal=("duplicate_key", "taken"))
    plan, _ = update(dataset, sequences, [prompt("a"), duplicate])
    again, counts = update(dataset, sequences, [prompt("a"), duplicate])
    assert (len(again), counts.refused) == (len(plan), {"duplicate_key": 1})
    assert keys(update(dataset, sequences, [prompt("a"), prompt("b", "other", 2)])[0], len(plan)) == [["b"]]


def test_a_changed_prompt_is_refused_by_name(dataset: Dataset, sequences: SequenceRenderer) -> None:
    plan, _ = update(dataset, sequences, [prompt("a"), prompt("b")])
    changed = [replace(prompt("a", "yy"), seed=3), prompt("new")]
    with pytest.raises(ConfigMismatchError, match="p#1: prompt 'a': text: recorded 'xx', given 'yy'; seed: recorded 0"):
        update(dataset, sequences, changed)
    assert dataset.plan().additions == plan.additions, "nothing was planned"


def test_a_prompt_that_killed_workers_is_tried_again_once_it_is_changed(
    dataset: Dataset, sequences: SequenceRenderer
) -> None:
    plan, _ = update(dataset, sequences, [prompt("a")])
    dataset.commit(UnitResult(0, refusals=[Refusal("a", 0, "p#1", WORKER_DIED, "")]), plan)
    plan, counts = update(dataset, sequences, [prompt("a")])
    assert (len(plan), counts.refused) == (1, {WORKER_DIED: 1})
    changed, counts = update(dataset, sequences, [prompt("a", "yy")])
    assert (keys(changed, 1), changed.retried) == ([["a"]], {WORKER_DIED: 1})
    assert not counts.refused


def test_prompts_that_killed_workers_are_counted_while_they_are_listed(
    dataset: Dataset, sequences: SequenceRenderer
) -> None:
    plan, counts = update(dataset, sequences, [prompt("a"), prompt("b")])
    count_died(dataset, [0], [prompt("a")], counts)
    assert not counts.refused, "the unit is not committed"
    dataset.commit(
        UnitResult(0, refusals=[Refusal(key, n, "p#1", WORKER_DIED, "") for n, key in enumerate("ab")]), plan
    )
    count_died(dataset, [0], [prompt("a"), prompt("c")], counts)
    assert counts.refused == {WORKER_DIED: 1}
    _, later = update(dataset, sequences, [prompt("a"), prompt("c")])
    assert (later.listed, later.refused, later.unlisted) == (2, {WORKER_DIED: 1}, 1)


def test_the_plan_of_a_faster_job_is_followed(
    dataset: Dataset, sequences: SequenceRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = PlanWriter.freeze

    def overtaken(writer: PlanWriter, *arguments: object) -> bool:
        monkeypatch.undo()
        update(dataset, sequences, [prompt("theirs")])
        return freeze(writer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PlanWriter, "freeze", overtaken)
    plan, counts = update(dataset, sequences, [prompt("mine")])
    assert (keys(plan), counts.unlisted) == ([["theirs"], ["mine"]], 1)


def test_prompts_are_compared_without_a_model(dataset: Dataset, sequences: SequenceRenderer) -> None:
    update(dataset, sequences, [prompt("a"), refused("b"), prompt("c", "x" * 500)])
    assert compare_prompts(dataset, [prompt("a", number=9), refused("b")]) is Change.NONE
    assert compare_prompts(dataset, [prompt("a"), prompt("b")]) is Change.GROWN
    assert compare_prompts(dataset, [prompt("new"), prompt("a"), refused("b"), prompt("c", "x")]) is Change.GROWN
    assert compare_prompts(dataset, [prompt("new"), prompt("a", "yy")]) is Change.CHANGED


def test_a_refused_prompt_under_the_key_of_an_accepted_one_changes_nothing_generated(
    dataset: Dataset, sequences: SequenceRenderer
) -> None:
    duplicate = replace(prompt("a", "other", 2), refusal=("duplicate_key", "taken"))
    update(dataset, sequences, [prompt("a"), duplicate])
    assert compare_prompts(dataset, [prompt("a"), duplicate, prompt("new")]) is Change.GROWN
    assert compare_prompts(dataset, [refused("a")]) is Change.GROWN, "generate reports the refusal and keeps the row"
