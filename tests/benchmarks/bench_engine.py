"""What the job layer costs: units a second by a worker that does nothing, and rows a second with all bookkeeping.

    python -m tests.benchmarks.bench_engine [--rows 50000 [--codes-side 32] [--profile]]

Rows a second are counted from the first result to the last, without the start of the processes.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, UnitSize
from shared.dataset.plan_writer import PlanWriter
from shared.jobs.claims import NoClaims
from shared.jobs.engines import EngineOptions
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Job, Task, TaskResult, WorkerContext
from shared.jobs.local_engine import run_in_process, run_local
from shared.jobs.signals import StopFlag
from shared.jobs.units import PlanUnits, run_units
from shared.maintenance.sweep import sweep
from tests.benchmarks.row import Row
from vq_stage.encode.input_reader import PreparedInput, ReadTask
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.worker import EncodeWorker
from vq_stage.media.resizing import Preprocessing

UNIT_ROWS = 256
PIXELS = np.zeros((1, 1, 3), np.uint8)
GOALS = {"here": 20_000.0, "local": 35_000.0}  # rows per second


class Clock:
    """Stands in for the progress bar: the rows that were reported, from the first report on."""

    def __init__(self) -> None:
        self.began_s = self.ended_s = 0.0
        self.rows = 0

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def reset(self, total: int) -> None:
        pass

    def update(self, count: int) -> None:
        self.ended_s = time.perf_counter()
        if self.began_s:
            self.rows += count
        elif count:
            self.began_s = self.ended_s

    @property
    def rows_per_s(self) -> float:
        return self.rows / (self.ended_s - self.began_s)


class IdleWorker:
    """Says at once that a task is done."""

    def __init__(self, context: WorkerContext):
        pass

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        return (TaskResult(task) for task in tasks if task is not None)


class IdleCatalog:
    """Units without inputs; a hundred in a row share a shape."""

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return ()

    def shape(self, unit: int) -> int:
        return unit // 100


class InstantTokenizer:
    """Gives the images of every batch the same codes."""

    def __init__(self, side: int):
        self.codes_BHW = np.random.default_rng(0).integers(0, 32768, (UNIT_ROWS, side, side), dtype=np.uint16)

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        return self.codes_BHW[: len(pixels_BHWC)]


class InstantWorker(EncodeWorker):
    """The encode job's worker without reading and without a model."""

    def __init__(self, options: EncodeOptions, side: int, context: WorkerContext):
        self.side = side
        super().__init__(options, options.source, context)
        cast(Any, self.reader).prepare = self._prepare

    def _load_tokenizer(self, canary_size: UnitSize) -> None:
        cast(Any, self).tokenizer = InstantTokenizer(self.side)
        self.numerics = {"device": "none"}

    def _prepare(self, task: ReadTask) -> PreparedInput:
        return PreparedInput(task.unit, task.planned, PIXELS, bytes(32), 8, 8)


def bench(name: str, units: int, run: Callable[[Job], None]) -> None:
    done: list[TaskResult] = []
    job = Job(IdleWorker, range(units), IdleCatalog(), NoClaims(), StopFlag(), done.append)
    began = time.perf_counter()
    run(job)
    elapsed_s = time.perf_counter() - began
    assert len(done) == units
    click.echo(f"{name}: {units} units of {units // 100} shapes in {elapsed_s:.2f} s, {units / elapsed_s:.0f} a second")


def rows(quick: bool) -> list[Row]:
    """Measure the rows of one process and of two, the best of three runs."""
    found, count = [], 20_000 if quick else 100_000
    for engine, workers in ((EngineOptions(), "one process"), (EngineOptions("local", 2), "two local workers")):
        rates = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as root:
                rates.append(bench_rows(Path(root), count, 32, engine))
        name = f"bookkeeping of 32×32 codes, {workers}"
        found.append(Row(name, max(rates), "rows/s", goal=GOALS[engine.engine]))
    return found


def bench_rows(root: Path, rows: int, side: int, engine: EngineOptions) -> float:
    """Rows a second from the plan to commit records, of units of 256 pictures of `side`² codes."""
    dataset, source = Dataset(root / "dataset"), root / "source"
    source.mkdir()
    options = EncodeOptions(str(source), str(dataset.root), preprocessing=Preprocessing("none"), quality_samples=0)
    dataset.root.mkdir()
    with PlanWriter(UNIT_ROWS) as writer:
        for index in range(rows):
            name = f"folder-{index // 1000:04d}/picture-{index:08d}"
            writer.add((1, 8 * side, 8 * side), PlannedInput(index, name, f"{name}.png", f"caption {index}"))
        writer.freeze(dataset.plan_path, options.recorded())
    began, cpu_began = time.perf_counter(), time.process_time()
    with job_lock(dataset.root, partial(sweep, dataset)):
        plan = dataset.plan()
        worker, clock = partial(InstantWorker, options, side), Clock()
        run = run_units(PlanUnits.of(dataset, plan), worker, engine, StopFlag(), cast(Any, clock))
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    assert run.rows == rows
    click.echo(
        f"{engine.engine}, {engine.workers} worker: {rows} rows of {side}² codes in {elapsed_s:.2f} s,"
        f" {clock.rows_per_s:.0f} rows a second after the first; CPU of this process: {cpu_s:.2f} s"
    )
    return clock.rows_per_s


@click.command()
@click.option("--units", type=int, default=100_000)
@click.option("--rows", type=int, help="Instead: rows of an encode job whose pictures and model cost nothing.")
@click.option("--codes-side", type=int, default=32)
@click.option("--profile", is_flag=True, help="Tell what takes the time of --rows, in this process.")
def main(units: int, rows: int | None, codes_side: int, profile: bool) -> None:
    """In this process, and by one other with its start."""
    if rows is None:
        bench("in this process", units, run_in_process)
        bench("by one process", units // 10, lambda job: run_local(job, 1))
        return
    for engine in (EngineOptions(), EngineOptions("local", 1), EngineOptions("local", 2)):
        with tempfile.TemporaryDirectory() as root, cProfile.Profile(time.thread_time) as profiler:
            if not profile:
                profiler.disable()
            bench_rows(Path(root), rows, codes_side, engine)
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
            return


if __name__ == "__main__":
    main()
