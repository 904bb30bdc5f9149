"""The encode job: from a source of images and videos to a dataset of code shards.

Data flow of one image: source (item) → planner (planned input: size and unit) → input reader (pixels, ahead of the
device) → worker (batch of one size → codes → record) → committed part.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.quarantine_reasons import DUPLICATE_CONTENT
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import PlanUnits, run_units
from shared.maintenance.sweep import sweep
from shared.storage.paths import absolute
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.plan_updates import existing_plan, up_to_date_plan
from vq_stage.encode.planner import Planner
from vq_stage.encode.worker import EncodeWorker


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """Counts of one run.

    `quarantined` has the number of refused inputs by reason, `units_missing` counts the units that other jobs are
    still working on, and `is_fruitless` is true if every new input was refused.
    """

    rows: int
    quarantined: Mapping[str, int]
    units_missing: int
    is_fruitless: bool
    elapsed_s: float


def encode(options: EncodeOptions, is_repair: bool = False) -> EncodeResult:
    """Encode everything that is not encoded yet; the same call resumes, and adds new items of the source.

    A repair encodes what is planned already, and does not list the source.
    Raises ConfigMismatchError, before the model loads, if the dataset was created with other settings, and
    Interrupted after SIGINT or SIGTERM; everything encoded so far is kept.
    """
    began = time.monotonic()
    settings, dataset = options.recorded(), Dataset(options.dataset)
    planner = Planner(options, settings.codec)
    sweep_dataset = partial(sweep, dataset) if options.engine.rank_count == 1 else None
    with stop_on_signals() as stop, job_lock(dataset.root, sweep_dataset):
        units_before = len(dataset.plan()) if dataset.plan_path.is_file() else 0
        plan = existing_plan(dataset, settings) if is_repair else up_to_date_plan(dataset, planner, settings, stop)
        for line in planner.source.report.lines():
            tqdm.write(line, file=sys.stderr)
        bar = tqdm(unit="image", desc="encode", disable=None)
        worker = partial(EncodeWorker, options.for_workers(), absolute(str(planner.source.root)))
        units = PlanUnits.of(dataset, plan)
        run = run_units(units, worker, options.engine, stop, bar)
        if not (units_missing := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
        records = [dataset.record(unit) for unit in units.missing if dataset.is_committed(unit)]
        return EncodeResult(
            run.rows + run.resumed_rows,
            refusals_of(records),
            units_missing,
            _is_fruitless(dataset, [record for record in records if record.unit >= units_before]),
            time.monotonic() - began,
        )


def refusals_of(records: Iterable[CommitRecord]) -> Mapping[str, int]:
    """Return the number of refused inputs by reason, the most frequent first."""
    reasons: Counter[str] = Counter()
    for record in records:
        reasons.update(record.quarantined)
    return dict(reasons.most_common())


def _is_fruitless(dataset: Dataset, new_records: Sequence[CommitRecord]) -> bool:
    """Return whether all inputs that this run planned were refused, for any reason other than duplicate content.

    It is also true if the dataset has no rows at all. A run that resumes another may have only refused inputs left.
    """
    if not any(record.rows for record in dataset.commit_records()):
        return True
    return bool(set(refusals_of(new_records)) - {DUPLICATE_CONTENT}) and not any(record.rows for record in new_records)
