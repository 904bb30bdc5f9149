"""Groups the tasks of a worker by shape, so that sequences of one shape fill a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from shared.jobs.job import Task

Shape = TypeVar("Shape", bound=Hashable)


class TaskFeed(Generic[Shape]):
    """Hands out tasks of one shape and holds the first task of another shape back until that shape is asked for.

    `shape_of(unit)` is called once for each task.
    """

    def __init__(self, tasks: Iterator[Task | None], shape_of: Callable[[int], Shape]):
        self._tasks = tasks
        self._shape_of = shape_of
        self._held: tuple[Task, Shape] | None = None

    def next_shape(self) -> Shape | None:
        """Wait for a task and return its shape, or None if there are no more tasks.

        Call this only while no task is in progress, because the wait may be for another worker.
        """
        while self._held is None:
            try:
                self._hold(next(self._tasks))
            except StopIteration:
                return None
        return self._held[1]

    def take(self, shape: Shape) -> Task | None:
        """Return the next task, or None if none is available now or it has another shape."""
        if self._held is None:
            self._hold(next(self._tasks, None))
        if self._held is None or self._held[1] != shape:
            return None
        task, self._held = self._held[0], None
        return task

    def _hold(self, task: Task | None) -> None:
        if task is not None:
            self._held = task, self._shape_of(task.unit)
