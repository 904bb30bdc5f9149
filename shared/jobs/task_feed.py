"""Tasks as a worker of the language stage takes them: of one shape until all its slots are empty."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from shared.jobs.job import Task

Shape = TypeVar("Shape", bound=Hashable)


class TaskFeed(Generic[Shape]):
    """Holds a task of another shape back until it is asked for."""

    def __init__(self, tasks: Iterator[Task | None], shape_of: Callable[[int], Shape]):
        self._tasks = tasks
        self._shape_of = shape_of
        self._held: Task | None = None

    def next_shape(self) -> Shape | None:
        """The shape of the task to come. To be asked with nothing in hand: it waits for one; None: all is done."""
        while self._held is None:
            try:
                self._held = next(self._tasks)
            except StopIteration:
                return None
        return self._shape_of(self._held.unit)

    def take(self, shape: Shape) -> Task | None:
        """A task of this shape, if there is one now."""
        if self._held is None:
            self._held = next(self._tasks, None)
        if self._held is None or self._shape_of(self._held.unit) != shape:
            return None
        task, self._held = self._held, None
        return task
