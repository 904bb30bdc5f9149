"""The encode job: a source of images and videos to a dataset of code shards.

The way of one image: source → plan (size, unit) → read and resize ahead of the device → batch of one size →
codes → record → committed part.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.jobs.engines import run_units
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import PlanUnits
from shared.maintenance.sweep import sweep
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.plan_updates import up_to_date_plan
from vq_stage.encode.worker import EncodeWorker


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What this run of the job did, and what the dataset lacks still (units that other jobs work on)."""

    rows: int
    quarantined: int
    units: int
    units_missing: int
    elapsed_s: float


def encode(options: EncodeOptions) -> EncodeResult:
    """Encodes what is not encoded yet; the same call resumes, and takes in what its source has new.

    Raises ConfigMismatchError, before a model loads, if the dataset was begun with other settings;
    Interrupted after SIGINT or SIGTERM, with everything encoded so far kept.
    """
    began = time.monotonic()
    settings = options.recorded()
    planner, dataset = options.planner(), Dataset(options.dataset)
    with (
        stop_on_signals() as stop,
        job_lock(dataset.root, partial(sweep, dataset) if options.engine.rank_count == 1 else None),
    ):
        plan = up_to_date_plan(dataset, planner, settings, stop, options.retry_quarantined)
        bar = tqdm(unit="image", desc="encode", disable=None)
        units, worker = PlanUnits.of(dataset, plan), partial(EncodeWorker, options.for_workers())
        run = run_units(units, worker, options.engine, stop, bar)
        if not (left := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    return EncodeResult(run.rows + run.resumed_rows, run.quarantined, run.units, left, time.monotonic() - began)
