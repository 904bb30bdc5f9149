"""What is to be encoded: the plan of a dataset, brought up to date with its source.

A plan is never changed. Inputs that came to the source since, and quarantined ones that shall be tried again, are
planned in additions to it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan, PlannedInput, Unit
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.quarantine import Refusal
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.jobs.signals import StopFlag
from vq_stage.encode.planner import Planner, Sized, clip_key
from vq_stage.sources.folder import FolderSource
from vq_stage.sources.lists import StandardInput
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.media_types import kind_of, stem_of

NOT_RETRIED = ("duplicate_key", "duplicate_content")


def up_to_date_plan(
    dataset: Dataset, planner: Planner, settings: DatasetSettings, stop: StopFlag, retry: Sequence[str] = ()
) -> Plan:
    """The plan of a dataset; begins it, or adds what its source has new. `retry` are reasons of quarantine.

    Raises ConfigMismatchError if the dataset was begun with other settings.
    """
    if not dataset.plan_path.is_file():
        with PlanWriter(planner.options.unit_rows) as writer:
            planner.plan(writer, planner.source, KnownKeys(), 0, stop)
            if not writer.inputs:
                raise UsageError(f"{planner.source.root}: nothing to encode was found")
            writer.freeze(dataset.plan_path, settings)
    plan = dataset.plan()
    plan.check_settings(settings, dataset.root)
    if retry:
        plan = _retry(dataset, plan, planner, stop, retry)
    return _add_new(dataset, plan, planner, stop)


def _add_new(dataset: Dataset, plan: Plan, planner: Planner, stop: StopFlag) -> Plan:
    known = KnownItems(plan, planner.source)
    new = planner.source.items(is_planned=known.has)
    with PlanWriter(planner.options.unit_rows) as writer:
        planner.plan(writer, new, KnownKeys(before=known.keys), plan.next_index(), stop)
        return _added(dataset, plan, writer)


class KnownItems:
    """What of a source is planned already, told by keys; no file is looked at.

    In a folder paths decide where keys may mislead: a file that comes to stand beside another of its name, or goes,
    changes the key of that.
    """

    def __init__(self, plan: Plan, source: MediaSource):
        self.keys = KnownKeys(plan.keys())
        self._plan = plan
        self._is_folder = isinstance(source, FolderSource)

    @cached_property
    def _uris(self) -> KnownKeys:
        return KnownKeys(self._plan.uris())

    def has(self, item: MediaItem) -> bool:
        if self.keys.has(item.key):
            return True
        if not self._is_folder:
            return self._has_clips(item.key)
        names = (item.key, stem_of(item.uri), item.uri)
        return any(self.keys.has(name) or self._has_clips(name) for name in names) and self._uris.has(item.uri)

    def _has_clips(self, key: str) -> bool:
        return self.keys.has(clip_key(key, 0))


def _retry(dataset: Dataset, plan: Plan, planner: Planner, stop: StopFlag, reasons: Sequence[str]) -> Plan:
    """Plans quarantined inputs again, under their keys; a video that had no clips yet gets them now.

    What the source says of them now counts: its caption, its place in a tar.
    """
    if hopeless := sorted(set(reasons) & set(NOT_RETRIED)):
        raise UsageError(f"--retry-quarantined {hopeless[0]}: that lies in the source's list: mend it and encode again")
    quarantined = list(_quarantined(dataset, plan))
    there = sorted({refusal.reason for refusal, _, _ in quarantined})
    for reason in sorted(set(reasons) - set(there)):
        known = ", ".join(there) or "none"
        tqdm.write(f"--retry-quarantined {reason}: no input is refused for it; there are {known}", file=sys.stderr)
    chosen = [one for one in quarantined if one[0].reason in reasons]
    listed = _listed(planner.source, {refusal.key for refusal, _, _ in chosen})
    retried = Counter(refusal.reason for refusal, _, _ in chosen)
    next_index = plan.next_index()
    with PlanWriter(planner.options.unit_rows) as writer:
        for _, unit, planned in chosen:
            stop.raise_if_set("nothing was planned")
            for number, (size, again) in enumerate(_measured(planner, unit, planned, listed.get(planned.key))):
                writer.add(size, replace(again, src_index=planned.src_index if number == 0 else next_index))
                next_index += number > 0
        return _added(dataset, plan, writer, retried)


def _listed(source: MediaSource, keys: set[str]) -> dict[str, MediaItem]:
    """The items of a source with these keys; of standard input none, as that can be read only once."""
    listed: dict[str, MediaItem] = {}
    if keys and not isinstance(source, StandardInput):
        for item in source:
            if item.key in keys:
                listed.setdefault(item.key, item)  # another one after it is a duplicate
    return listed


def _added(dataset: Dataset, plan: Plan, writer: PlanWriter, retried: Mapping[str, int] | None = None) -> Plan:
    if not writer.inputs:
        return plan
    writer.extend(plan, retried)
    return dataset.plan()


def _quarantined(dataset: Dataset, plan: Plan) -> Iterable[tuple[Refusal, Unit, PlannedInput]]:
    """Inputs whose last attempt was refused, with what was planned of them; not those whose next one is planned."""
    last: dict[int, tuple[Refusal, Unit, PlannedInput]] = {}
    committed = set(dataset.committed_units())
    for number in range(len(plan)):
        if plan.is_added(number):
            for index in plan.src_indices(number):
                last.pop(index, None)
        record = dataset.record(number) if number in committed else None
        if record is not None and record.quarantined:
            unit = plan.unit(number)
            inputs = {planned.src_index: planned for planned in unit.inputs}
            for refusal in dataset.refusals(record):
                last[refusal.src_index] = (refusal, unit, inputs[refusal.src_index])
    return last.values()


def _measured(planner: Planner, unit: Unit, planned: PlannedInput, listed: MediaItem | None) -> list[Sized]:
    """A clip stays what it is; an image, or a video that could not be opened, is measured again."""
    if planned.frame_start is not None:
        return [(unit.size, replace(planned, refused_reason=None, refused_detail=None))]
    known = MediaItem(planned.key, planned.uri, planned.text, kind_of(planned.uri), planned.locator, planned.extra_json)
    return planner.measure(listed or known)[0]
