"""The plan of a dataset, created from its source or extended to match it.

A plan is never changed. Items that the source has gained since, and quarantined inputs to retry, are planned in
additions to it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan, PlannedInput, Unit
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.quarantine import Refusal
from shared.dataset.quarantine_reasons import DUPLICATE_KEY
from shared.dataset.settings import DatasetSettings
from shared.jobs.signals import StopFlag
from vq_stage.encode.keys import clip_key, item_key
from vq_stage.encode.planner import Planner, SizedInput, until_stopped
from vq_stage.encode.text_changes import TextChanges
from vq_stage.sources.folder import FolderSource
from vq_stage.sources.lists import ListSource, StandardInput
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.media_types import kind_of, stem_of


def up_to_date_plan(dataset: Dataset, planner: Planner, settings: DatasetSettings, stop: StopFlag) -> Plan:
    """Return the plan of a dataset: created, or extended by new items and by the quarantined inputs to retry.

    The source is listed once, and a second time only if quarantined inputs are planned again.
    Raises ConfigMismatchError if the dataset was created with other settings, and DatasetError, before anything is
    added, if it is damaged.
    """
    if not dataset.plan_path.is_file() and _create(dataset, planner, settings, stop):
        return dataset.plan()
    plan = existing_plan(dataset, settings)
    dataset.check()
    if planner.options.retry_quarantined:
        plan = _retry_quarantined(dataset, plan, planner, stop)
    return _add_new_items(dataset, plan, planner, stop)


def existing_plan(dataset: Dataset, settings: DatasetSettings) -> Plan:
    """Return the plan of a dataset. Raises ConfigMismatchError if the dataset was created with other settings."""
    plan = dataset.plan()
    plan.check_settings(settings, dataset.root)
    return plan


def _create(dataset: Dataset, planner: Planner, settings: DatasetSettings, stop: StopFlag) -> bool:
    """Write the plan. Returns False if another job was faster: then that job's plan is the dataset's."""
    with PlanWriter(planner.options.unit_rows) as writer:
        planner.plan_all(writer, stop)
        return writer.freeze(dataset.plan_path, settings)


def _add_new_items(dataset: Dataset, plan: Plan, planner: Planner, stop: StopFlag) -> Plan:
    refusals = (one.refusal for one in _quarantined_inputs(dataset, plan))
    without_row = (refusal.key for refusal in refusals if refusal.reason != DUPLICATE_KEY)  # that key has a row
    known = KnownItems(plan, planner.source)
    changes = TextChanges(plan, dataset.texts, planner.options.update_texts, without_row)
    new = _new_items(planner.source, known, changes, stop)
    with PlanWriter(planner.options.unit_rows) as writer:
        planner.plan_items(writer, new, KnownKeys(before=known.keys), plan.next_index(), stop)
        extended = _extended(dataset, plan, writer)
    changes.finish()
    return extended


def _new_items(source: MediaSource, known: KnownItems, changes: TextChanges, stop: StopFlag) -> Iterator[MediaItem]:
    """Yield the items that are not planned; compare the texts of the others if they are read anyway, or requested."""
    if not changes.is_update and not isinstance(source, ListSource):
        if isinstance(source, FolderSource):
            source = replace(source, planned_keys=known.keys)
        yield from source.items(until_stopped(stop, known.has))
        return
    for item in source.items(until_stopped(stop)):
        if known.has(item):
            changes.compare(item)
        else:
            yield item


def _extended(dataset: Dataset, plan: Plan, writer: PlanWriter, retried: Mapping[str, int] | None = None) -> Plan:
    if not writer.inputs:
        return plan
    writer.extend(plan, retried)
    return dataset.plan()


class KnownItems:
    """The items of a source that are planned already, recognized by their keys without opening any file.

    The paths decide where keys are ambiguous. In a folder, the key of a file changes when another with the same stem is
    added beside it or removed; in lists, tables and tars, different images may have the same key.
    """

    def __init__(self, plan: Plan, source: MediaSource):
        self.keys = KnownKeys(plan.keys())
        self._plan = plan
        self._is_folder = isinstance(source, FolderSource)

    @cached_property
    def _uris(self) -> KnownKeys:
        """The URIs; that of the nth item with the same one ends in its number.

        What was refused because its key was in use is left out: today it gets another key.
        """
        uris, items, repeats = KnownKeys(), KnownKeys(), Counter[str]()
        for key, uri, reason in zip(self._plan.keys(), self._plan.uris(), self._plan.refused_reasons()):
            if reason == DUPLICATE_KEY or not items.is_new(f"{uri}\0{item_key(key)}") or uris.is_new(uri):
                continue
            repeats[uri] += 1
            uris.is_new(_numbered(uri, 1 + repeats[uri]))
        return uris

    def has(self, item: MediaItem) -> bool:
        if not item.key_repeats and (self.keys.has(item.key) if self._is_folder else self._has_key(item.key)):
            return True
        names = (item.key, *item.other_keys, *((stem_of(item.uri), item.uri) if self._is_folder else ()))
        return any(map(self._has_key, names)) and self._uris.has(_numbered(item.uri, item.number))

    def _has_key(self, key: str) -> bool:
        return self.keys.has(key) or self.keys.has(clip_key(key, 0))


def _numbered(uri: str, number: int) -> str:
    return uri if number == 1 else f"{uri}\0{number}"


@dataclass(frozen=True, slots=True)
class QuarantinedInput:
    """An input whose last attempt was refused, and what was planned for it."""

    refusal: Refusal
    unit: Unit
    planned: PlannedInput


def _retry_quarantined(dataset: Dataset, plan: Plan, planner: Planner, stop: StopFlag) -> Plan:
    """Plan quarantined inputs again, under their keys; a video that had no clips yet gets them now.

    The current listing of the source decides: captions and locators may have changed.
    """
    reasons = planner.options.retry_quarantined
    quarantined = list(_quarantined_inputs(dataset, plan))
    _warn_of_unused_reasons(reasons, {one.refusal.reason for one in quarantined})
    chosen = [one for one in quarantined if one.refusal.reason in reasons]
    listed = _listed(planner.source, [one.planned for one in chosen])
    next_index = plan.next_index()
    with PlanWriter(planner.options.unit_rows) as writer:
        for one in chosen:
            stop.raise_if_set("nothing was planned")
            first, *others = _planned_again(planner, one, listed.get(one.planned.key))
            writer.add(first[0], first[1]._replace(src_index=one.planned.src_index))
            for size, planned in others:
                writer.add(size, planned._replace(src_index=next_index))
                next_index += 1
        return _extended(dataset, plan, writer, Counter(one.refusal.reason for one in chosen))


def _warn_of_unused_reasons(reasons: Collection[str], present: Collection[str]) -> None:
    for reason in sorted(set(reasons) - set(present)):
        found = ", ".join(sorted(present)) or "none"
        tqdm.write(f"--retry-quarantined {reason}: no input is quarantined for it; found: {found}", file=sys.stderr)


def _listed(source: MediaSource, inputs: Collection[PlannedInput]) -> dict[str, MediaItem]:
    """Return the items of these inputs by their keys; none of standard input, which can be read only once.

    An item whose key others may have, too, is recognized by its URI, and gets the key with which it was planned.
    """
    locators, key_of_uri = {one.key: one.locator for one in inputs}, {one.uri: one.key for one in inputs if one.uri}

    def planned_key(item: MediaItem) -> str | None:
        return item.key if item.key in locators and not item.key_repeats else key_of_uri.get(item.uri)

    listed: dict[str, MediaItem] = {}
    if inputs and not isinstance(source, StandardInput):
        for item in source.items(is_planned=lambda item: planned_key(item) is None):
            key = planned_key(item) or item.key
            # A later one with the same key is a duplicate, unless an earlier member of the tar has the same name.
            if key not in listed or item.locator == locators[key] != listed[key].locator:
                listed[key] = replace(item, key=key)
    return listed


def _quarantined_inputs(dataset: Dataset, plan: Plan) -> Iterator[QuarantinedInput]:
    """Yield the inputs whose last attempt was refused, except those that are planned again already."""
    last: dict[int, QuarantinedInput] = {}
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
                last[refusal.src_index] = QuarantinedInput(refusal, unit, inputs[refusal.src_index])
    yield from last.values()


def _planned_again(planner: Planner, one: QuarantinedInput, listed: MediaItem | None) -> list[SizedInput]:
    """Return the inputs for another attempt: a clip as it was, an image or a video planned from its header."""
    planned = one.planned
    if planned.frame_start is not None:
        return [(one.unit.size, planned._replace(refused_reason=None, refused_detail=None))]
    if listed is None and not planned.uri:
        return [(one.unit.size, planned)]  # an entry of a list that names no file; once corrected, it is a new item
    known = MediaItem(planned.key, planned.uri, planned.text, kind_of(planned.uri), planned.locator, planned.extra_json)
    return planner.plan_item(listed or known).inputs
