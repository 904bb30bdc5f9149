"""Tasks grouped by shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shared.jobs.job import Task, TaskFeed

SHAPES = ["small", "small", "large", "small"]


def counting(calls: Counter[int]) -> Callable[[int], str]:
    def shape_of(unit: int) -> str:
        calls[unit] += 1
        return SHAPES[unit]

    return shape_of


def test_a_task_of_another_shape_is_held_back_and_its_shape_computed_once() -> None:
    calls: Counter[int] = Counter()
    feed = TaskFeed(iter([Task(unit) for unit in range(4)]), counting(calls))
    assert feed.next_shape() == "small"
    assert [feed.take("small"), feed.take("small")] == [Task(0), Task(1)]
    assert [feed.take("small") for _ in range(100)] == [None] * 100, "as at every decode step"
    assert feed.next_shape() == "large"
    assert feed.take("large") == Task(2)
    assert feed.take("large") is None
    assert feed.next_shape() == "small"
    assert feed.take("small") == Task(3)
    assert feed.next_shape() is None
    assert feed.take("small") is None
    assert calls == {unit: 1 for unit in range(4)}


def test_none_stands_for_no_task_yet() -> None:
    feed = TaskFeed(iter([None, Task(0), None, None, Task(1)]), counting(Counter()))
    assert feed.take("small") is None
    assert feed.take("small") == Task(0)
    assert feed.take("small") is None
    assert feed.next_shape() == "small"
    assert feed.take("small") == Task(1)
