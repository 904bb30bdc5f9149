"""The import job: an export, or upstream's list of files, to a dataset.

An import of an export restores the dataset: its rows, their order, its settings and the digest that `emu3 verify`
prints. Upstream's samples are sorted by size, as the encode job does, and broken or unsafe files are quarantined.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count

from tqdm import tqdm

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import REFUSED, Plan, PlannedInput, Size, Unit
from shared.dataset.plan_writer import PlanWriter, freeze_plan
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.errors import UsageError
from shared.exchange.options import ImportOptions
from shared.exchange.registry import ImportSource, open_source
from shared.jobs.engines import EngineOptions
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.prefetch import prefetch_map
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.jobs.units import PlanUnits, run_units
from shared.maintenance.sweep import sweep
from shared.storage.paths import is_local, make_directory

_ROWS_AHEAD, _UNITS_AHEAD = 256, 2


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What this run imported. `units_missing` are left, because other jobs are working on them."""

    rows: int
    quarantined: int
    units: int
    units_missing: int
    elapsed_s: float


def import_dataset(options: ImportOptions) -> ImportResult:
    """Import what is not imported yet; the same call resumes.

    Raises ConfigMismatchError if the dataset was created with different settings, DatasetError if an export is
    damaged, and Interrupted after SIGINT or SIGTERM, with every committed unit kept.
    """
    started_s = time.monotonic()
    source, dataset = open_source(options), Dataset(options.dataset)
    if not is_local(dataset.root):
        raise UsageError(f"{options.dataset}: expected a folder of this machine; import there, then copy it")
    with stop_on_signals() as stop, job_lock(dataset.root, partial(sweep, dataset)):
        if not dataset.plan_path.is_file():
            make_directory(dataset.root)
            _freeze_plan(dataset, source, options.unit_rows, stop)
        plan = dataset.plan()
        plan.check_settings(source.settings, dataset.root)
        bar = tqdm(desc="import", unit="row", disable=None)
        worker = partial(ImportWorker, source, dataset, plan)
        totals = run_units(PlanUnits.of(dataset, plan), worker, EngineOptions(), stop, bar)
        if not (missing := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    return ImportResult(totals.rows, totals.quarantined, totals.units, missing, time.monotonic() - started_s)


def _freeze_plan(dataset: Dataset, source: ImportSource, unit_rows: int, stop: StopFlag) -> None:
    bar = tqdm(source.planned(), "read", len(source), unit="row", disable=None)
    rows = _until_stopped(bar, stop)
    if source.keeps_order:
        freeze_plan(dataset.plan_path, split_runs(rows, unit_rows), source.settings, len(source))
        return
    with PlanWriter(unit_rows) as writer:
        for size, planned in rows:
            writer.add(size, planned)
        writer.freeze(dataset.plan_path, source.settings)


def _until_stopped(rows: Iterable[tuple[Size, PlannedInput]], stop: StopFlag) -> Iterator[tuple[Size, PlannedInput]]:
    """Yield rows that are read in a thread, so that a blocked read does not delay a stop."""
    source = iter(rows)
    for row in prefetch_map(lambda _: next(source, None), count(), 1, _ROWS_AHEAD, stop):
        if row is None:
            return
        stop.raise_if_set("nothing is imported yet")
        yield row


def split_runs(rows: Iterable[tuple[Size, PlannedInput]], unit_rows: int) -> Iterator[Unit]:
    """Split rows, in order, into units of at most `unit_rows` rows and of one size.

    Rows without a grid, whose size is (0, 0, 0), join any unit.
    """
    number, size, inputs = 0, REFUSED, list[PlannedInput]()
    for row_size, planned in chain(rows, [(REFUSED, None)]):
        is_other_size = REFUSED not in (size, row_size) and row_size != size
        if inputs and (planned is None or is_other_size or len(inputs) == unit_rows):
            frames, height, width = size
            yield Unit(number, height, width, tuple(inputs), frames)
            number, size, inputs = number + 1, REFUSED, []
        if planned is not None:
            size = size if size != REFUSED else row_size
            inputs.append(planned)


class ImportWorker:
    """Reads units in a thread, so that a blocked read does not delay a stop, and commits them."""

    def __init__(self, source: ImportSource, dataset: Dataset, plan: Plan, context: WorkerContext):
        self.source, self.dataset, self.plan, self.context = source, dataset, plan, context

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        for read in prefetch_map(self._read, tasks, 1, _UNITS_AHEAD, self.context.stop):
            if self.context.stop.is_set():
                return
            if read is None:
                continue
            task, started_s, unit, (records, refusals) = read
            self.dataset.commit(UnitResult(unit.unit, records, refusals=refusals), self.plan)
            self.context.report_progress(unit.unit, len(unit.inputs))
            elapsed_s = time.monotonic() - started_s
            yield TaskResult(task, len(records), quarantined=len(refusals), elapsed_s=elapsed_s)

    def _read(self, task: Task) -> tuple[Task, float, Unit, tuple[list[CodeRecord], list[Refusal]]]:
        started_s, unit = time.monotonic(), self.plan.unit(task.unit)
        return task, started_s, unit, self.source.read(unit)
