"""Repair of a damaged dataset: intact rows are kept, damaged rows are encoded again from their source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.errors import UsageError
from shared.jobs.file_locks import job_lock
from shared.maintenance.salvage import DamagedUnit, repaired_units, set_damaged_aside
from shared.maintenance.sweep import sweep
from vq_stage.encode.job import encode
from vq_stage.encode.options import EncodeOptions, RepairOptions
from vq_stage.media.resizing import Preprocessing
from vq_stage.video.clips import ClipSampling


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What was restored without encoding, units set aside, units encoded again, and the number still missing.

    `reencoded` has (unit, whether its bytes are those it had before).
    """

    restored: tuple[str, ...]
    set_aside: tuple[DamagedUnit, ...]
    reencoded: tuple[tuple[int, bool], ...]
    missing: int


def repair(options: RepairOptions) -> RepairResult:
    """Set damaged units aside, keep their intact rows, and encode the others again if there is a source.

    Raises DatasetError if the plan itself is damaged: then the dataset cannot be repaired.
    """
    dataset = Dataset.open(options.dataset)
    plan = dataset.plan()
    if options.source and plan.settings.preprocessing is None:
        raise UsageError(
            f"{options.dataset}: not created by `emu3 encode`; omit SOURCE, then run the command that created it again"
        )
    restored: list[str] = []
    with job_lock(dataset.root, partial(sweep, dataset)):
        set_aside = set_damaged_aside(dataset, plan, restored.append)
    if options.source and dataset.missing_units(plan):
        encode(_encode_options(options, options.source, dataset, plan), is_repair=True)
    missing = len(dataset.missing_units(plan))
    return RepairResult(tuple(restored), tuple(set_aside), tuple(repaired_units(dataset)), missing)


def _encode_options(options: RepairOptions, source: str, dataset: Dataset, plan: Plan) -> EncodeOptions:
    """Return the options that the dataset was encoded with."""
    where = f"{dataset.plan_path}: settings"
    numerics = next((record.numerics for record in dataset.commit_records() if record.numerics), {})
    return EncodeOptions(
        source,
        options.dataset,
        options.vision_tokenizer,
        Preprocessing.from_json(plan.settings.preprocessing or {}, where),
        ClipSampling.from_json(plan.settings.clips or {}, where),  # a codec of images only has none
        unit_rows=plan.settings.unit_rows or 1,
        batch_pixels=numerics.get("batch_pixels", 512 * 512),
        device=options.device,
        dtype=numerics.get("dtype"),
        kernels=numerics.get("kernels", "auto"),
        backend=numerics.get("backend", "native"),
    )
