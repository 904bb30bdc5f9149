"""The encode job: from a source of images and videos to a dataset of code shards.

Data flow of one image: source (item) → planner (planned input: size and unit) → input reader (pixels, ahead of the
device) → worker (batch of one size → codes → record) → committed part.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import PlanUnits, run_units
from shared.maintenance.sweep import sweep
from shared.storage.paths import absolute
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.plan_updates import up_to_date_plan
from vq_stage.encode.planner import Planner
from vq_stage.encode.worker import EncodeWorker


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """Counts of one run; `units_missing` counts the units that other jobs are still working on."""

    rows: int
    quarantined: int
    units: int
    units_missing: int
    elapsed_s: float


def encode(options: EncodeOptions) -> EncodeResult:
    """Encode everything that is not encoded yet; the same call resumes, and adds new items of the source.

    Raises ConfigMismatchError, before the model loads, if the dataset was created with other settings, and
    Interrupted after SIGINT or SIGTERM; everything encoded so far is kept.
    """
    began = time.monotonic()
    settings, planner, dataset = options.recorded(), Planner(options), Dataset(options.dataset)
    sweep_dataset = partial(sweep, dataset) if options.engine.rank_count == 1 else None
    with stop_on_signals() as stop, job_lock(dataset.root, sweep_dataset):
        plan = up_to_date_plan(dataset, planner, settings, stop)
        bar = tqdm(unit="image", desc="encode", disable=None)
        worker = partial(EncodeWorker, options.for_workers(), absolute(str(planner.source.root)))
        units = PlanUnits.of(dataset, plan)
        run = run_units(units, worker, options.engine, stop, bar)
        if not (units_missing := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    return EncodeResult(
        run.rows + run.resumed_rows, run.quarantined, run.units, units_missing, time.monotonic() - began
    )
