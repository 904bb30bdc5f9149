"""The import job: an export of ours, or upstream's list of files, to a dataset.

An export comes back as it was: rows, their order, settings, and the digest that `emu3 verify` prints. Upstream's
samples are sorted by size as the encode job does; what is broken or unsafe goes to quarantine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from tqdm import tqdm

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.plan import REFUSED, Plan, PlannedInput, Size, Unit, freeze_plan
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.exchange.formats.upstream import LIST, UpstreamSamples
from shared.exchange.manifest import MANIFEST, ExportedRows
from shared.jobs.engines import EngineOptions, run_units
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.jobs.units import PlanUnits
from shared.maintenance.sweep import sweep
from shared.storage.paths import as_path, is_local, make_directory


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`source` is an export's folder, an upstream list or a folder with one; only a list needs `codec`."""

    source: str
    dataset: str
    codec: Codec | None = None
    unit_rows: int = 256
    max_refused_in_a_row: int = 1000

    def __post_init__(self) -> None:
        for name in ("unit_rows", "max_refused_in_a_row"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What this run of the job did, and what the dataset lacks still (units that other jobs work on)."""

    rows: int
    quarantined: int
    units: int
    units_missing: int
    elapsed_s: float


def import_dataset(options: ImportOptions) -> ImportResult:
    """Imports what is not imported yet; the same call resumes.

    Raises ConfigMismatchError if the dataset was begun with other settings, DatasetError if an export is damaged,
    Interrupted after SIGINT or SIGTERM, with every committed unit kept.
    """
    began = time.monotonic()
    source, settings = open_source(options)
    dataset = Dataset(options.dataset)
    if not is_local(dataset.root):
        raise UsageError(f"{options.dataset}: expected a folder of this machine; import there, then copy it")
    with stop_on_signals() as stop, job_lock(dataset.root, partial(sweep, dataset)):
        plan = _open_plan(options, source, settings, dataset, stop)
        bar = tqdm(desc="import", unit="row", disable=None)
        worker = partial(ImportWorker, source, dataset, plan)
        run = run_units(PlanUnits.of(dataset, plan), worker, EngineOptions(), stop, bar)
        if not (left := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    return ImportResult(run.rows, run.quarantined, run.units, left, time.monotonic() - began)


def open_source(options: ImportOptions) -> tuple[ExportedRows | UpstreamSamples, DatasetSettings]:
    """The rows to import and the settings of their dataset. Raises UsageError if there are none."""
    path = as_path(options.source)
    if (path / MANIFEST).is_file():
        if options.codec is not None:
            raise UsageError(f"{options.source}: an export says itself whose codes it holds; leave the codec out")
        exported = ExportedRows(path)
        return exported, exported.settings
    listed = path if path.suffix == ".json" else path / LIST
    if not listed.is_file():
        raise UsageError(f"{options.source}: expected {MANIFEST} of an export, or upstream's {LIST}; found neither")
    if options.codec is None:
        raise UsageError(f"{options.source}: files of upstream do not say whose codes they hold: give --codebook-size")
    return UpstreamSamples(listed, options.codec, options.max_refused_in_a_row), upstream_settings(options)


def upstream_settings(options: ImportOptions) -> DatasetSettings:
    """As the encode job records them, as far as they are known."""
    codec = options.codec
    assert codec is not None, "a list is opened with its codec"
    return DatasetSettings(codec, unit_rows=options.unit_rows, imported={"from": "upstream list"})


def _open_plan(
    options: ImportOptions,
    source: ExportedRows | UpstreamSamples,
    settings: DatasetSettings,
    dataset: Dataset,
    stop: StopFlag,
) -> Plan:
    if not dataset.plan_path.is_file():
        make_directory(dataset.root)
        rows = _until_stopped(tqdm(source.planned(), "read", len(source), unit="row", disable=None), stop)
        if isinstance(source, ExportedRows):
            freeze_plan(dataset.plan_path, cut_runs(rows, options.unit_rows), settings, len(source))
        else:
            with PlanWriter(options.unit_rows) as writer:
                for size, planned in rows:
                    writer.add(size, planned)
                writer.freeze(dataset.plan_path, settings)
    plan = dataset.plan()
    plan.check_settings(settings, dataset.root)
    return plan


def _until_stopped(rows: Iterable[tuple[Size, PlannedInput]], stop: StopFlag) -> Iterator[tuple[Size, PlannedInput]]:
    for row in rows:
        stop.raise_if_set("nothing is imported yet")
        yield row


def cut_runs(rows: Iterable[tuple[Size, PlannedInput]], unit_rows: int) -> Iterator[Unit]:
    """Units of at most `unit_rows` rows in the order given, of one size but for rows without a grid, (0, 0, 0)."""
    number, size, inputs = 0, REFUSED, list[PlannedInput]()
    for row_size, planned in chain(rows, [(REFUSED, None)]):
        is_other = REFUSED not in (size, row_size) and row_size != size
        if inputs and (planned is None or is_other or len(inputs) == unit_rows):
            frames, height, width = size
            yield Unit(number, height, width, tuple(inputs), frames)
            number, size, inputs = number + 1, REFUSED, []
        if planned is not None:
            size = size if size != REFUSED else row_size
            inputs.append(planned)


class ImportWorker:
    """Reads and commits units, in this process."""

    def __init__(self, source: ExportedRows | UpstreamSamples, dataset: Dataset, plan: Plan, context: WorkerContext):
        self.source, self.dataset, self.plan, self.context = source, dataset, plan, context

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        for task in filter(None, tasks):
            began = time.monotonic()
            unit = self.plan.unit(task.unit)
            records, refusals = self.source.read(unit)
            self.dataset.commit(unit.unit, records, refusals, self.plan, {}, [])
            self.context.report_progress(unit.unit, len(unit.inputs))
            yield TaskResult(task, len(records), quarantined=len(refusals), elapsed_s=time.monotonic() - began)
