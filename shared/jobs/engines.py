"""Chooses the processes that run a job: this one, one per device of this machine, or the actors of a Ray cluster.

The module is imported for every `--help`, so it loads an engine only to run it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import UsageError
from shared.jobs.rank import Rank, resolve_rank

if TYPE_CHECKING:
    from shared.jobs.job import Job

ENGINES = ("here", "local", "ray")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which processes do the work.

    `here` is this process alone; `local` and `ray` run `workers` processes, one per device. If a cluster scheduler
    starts the same command `world_size` times, the one with number `rank` starts with its own share of the units and
    then steals from the others. A worker without any progress for `worker_timeout_s` is restarted.
    """

    engine: str = "here"
    workers: int = 1
    rank: int | None = None
    world_size: int | None = None
    ray_address: str | None = None
    worker_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine}: expected one of {', '.join(ENGINES)}")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected at least 1")
        if self.engine == "here" and self.workers > 1:
            raise UsageError(f"--workers {self.workers} needs --engine local or ray")
        if self.ray_address and self.engine != "ray":
            raise UsageError("--ray-address needs --engine ray")
        if self.worker_timeout_s is not None and self.worker_timeout_s <= 0:
            raise UsageError(f"--worker-timeout {self.worker_timeout_s}: expected more than 0 seconds")
        self.resolve_rank()

    def resolve_rank(self) -> Rank:
        """Return the rank of this process, from these options or from the environment."""
        return resolve_rank(self.rank, self.world_size, os.environ)

    @property
    def rank_count(self) -> int:
        """Number of equal commands that share the units."""
        return self.resolve_rank().world_size

    def run(self, job: Job) -> None:
        """Run a job to completion. Raises the errors of its workers, or Interrupted after a signal."""
        if self.engine == "ray":
            from shared.jobs.ray_engine import run_ray

            run_ray(job, self.workers, self.ray_address, limit_s=self.worker_timeout_s)
            return
        from shared.jobs.local_engine import run_in_process, run_local

        if self.engine == "local":
            run_local(job, self.workers, limit_s=self.worker_timeout_s)
        else:
            run_in_process(job)
