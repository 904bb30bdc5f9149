"""Finds workers that hang, so that they can be killed and their units be tried again.

A worker sends a message after every batch or token. How long that takes depends on the model and the device, and much
longer while a graph is compiled, so the limit follows from what this job has seen. A process that is suspended is
found sooner, and so is one that takes no CPU time at all, once its graphs are compiled: compilers are processes too.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from shared.jobs.process_tree import cpu_time_s, is_suspended

FIRST_LIMIT_S = 3600.0  # until a unit of the same shape is finished: loading and compiling take minutes
MIN_LIMIT_S = 600.0
LIMIT_FACTOR = 10.0  # of the longest silence that ended well
SUSPENDED_LIMIT_S = 15.0
IDLE_LIMIT_S = 300.0
IDLE_CPU_S = 0.03  # a thread that only polls takes more than this within IDLE_LIMIT_S
MAX_TICK_S = 1.0


@dataclass(slots=True)
class _Watched:
    """When a worker last sent a message, was not suspended, and was seen to take CPU time, by the watchdog's clock."""

    pid: int | None
    heard_s: float
    running_s: float
    busy_s: float
    cpu_s: float = 0.0


class Watchdog:
    """Watches the workers of a pool, which calls `tick` whenever it polls them.

    Its clock does not advance while the pool itself is suspended, because messages may wait unread in that time.
    With `limit_s`, a worker that has tasks may be silent that long whatever was seen before.
    """

    def __init__(self, limit_s: float | None = None, first_limit_s: float = FIRST_LIMIT_S):
        self._limit_s = limit_s
        self._first_limit_s = first_limit_s
        self._longest_silence_s = 0.0
        self._known_shapes: set[Hashable] = set()
        self._watched: dict[int, _Watched] = {}
        self._now_s = 0.0
        self._ticked_s = time.monotonic()

    def tick(self) -> None:
        now_s = time.monotonic()
        self._now_s += min(now_s - self._ticked_s, MAX_TICK_S)
        self._ticked_s = now_s

    def watch(self, worker: int, pid: int | None = None) -> None:
        """Start to watch a worker. `pid` is its process, if that runs on this machine."""
        self._watched[worker] = _Watched(pid, self._now_s, self._now_s, self._now_s)

    def forget(self, worker: int) -> None:
        self._watched.pop(worker, None)

    def note_message(self, worker: int) -> None:
        """Note a message of a worker that has something to do."""
        if watched := self._watched.get(worker):
            self._longest_silence_s = max(self._longest_silence_s, self._now_s - watched.heard_s)
            watched.heard_s = self._now_s

    def note_idle(self, worker: int) -> None:
        """Note that a worker has nothing to do, so it need not send messages."""
        if watched := self._watched.get(worker):
            watched.heard_s = watched.busy_s = self._now_s

    def finished(self, shape: Hashable) -> None:
        """Note that a unit of this shape is finished, so how long its graphs take is known."""
        self._known_shapes.add(shape)

    def limit_s(self, shapes: Collection[Hashable]) -> float:
        """Return how long a worker may be silent that has tasks of these shapes, or is still loading."""
        if shapes and self._limit_s is not None:
            return self._limit_s
        limit_s = max(MIN_LIMIT_S, LIMIT_FACTOR * self._longest_silence_s)
        return limit_s if self._is_known(shapes) else max(limit_s, self._first_limit_s)

    def _is_known(self, shapes: Collection[Hashable]) -> bool:
        """Whether units of all these shapes are finished; otherwise other processes may be compiling their graphs."""
        return bool(shapes) and self._known_shapes.issuperset(shapes)

    def problem(self, worker: int, shapes: Collection[Hashable]) -> str | None:
        """Return how a worker hangs, None if it does not or is not known."""
        if (watched := self._watched.get(worker)) is None:
            return None
        limit_s = self.limit_s(shapes)
        if watched.pid is not None:
            may_be_idle_s = IDLE_LIMIT_S if self._is_known(shapes) and self._limit_s is None else limit_s
            if problem := self._problem_of_process(watched, watched.pid, may_be_idle_s):
                return problem
        if self._now_s - watched.heard_s > limit_s:
            return f"has reported no progress for {limit_s:.0f} s"
        return None

    def _problem_of_process(self, watched: _Watched, pid: int, may_be_idle_s: float) -> str | None:
        if not is_suspended(pid):
            watched.running_s = self._now_s
        if (cpu_s := cpu_time_s(pid)) is None or cpu_s - watched.cpu_s > IDLE_CPU_S:
            watched.busy_s, watched.cpu_s = self._now_s, cpu_s or 0.0
        if self._now_s - watched.running_s > SUSPENDED_LIMIT_S:
            return f"has been suspended for {SUSPENDED_LIMIT_S:.0f} s"
        if self._now_s - max(watched.busy_s, watched.heard_s) > may_be_idle_s:
            return f"has reported no progress and taken no CPU time for {may_be_idle_s:.0f} s"
        return None
