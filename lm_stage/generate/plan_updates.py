"""The plan of a generated dataset, created from its prompts or extended to match them.

A prompt is identified by its key. A plan is never changed: new prompts, and refused ones that have been corrected, are
planned in additions to it. Prompts that are no longer listed stay planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from lm_stage.generate.journal import DIED
from lm_stage.generate.planner import PromptPlanner, planned_prompt
from lm_stage.generate.prompts import Prompt
from lm_stage.inference.recorded_sampling import check_noise
from shared.dataset.change import Change
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.dataset.settings import DatasetSettings
from shared.errors import ConfigMismatchError

_NAMED_PROMPTS = 3  # in a message


@dataclass(frozen=True, slots=True)
class KnownPrompt:
    """A planned prompt; `refused` is the reason if it was refused, while planning or later."""

    src_index: int
    prompt: Prompt
    refused: str | None


@dataclass(slots=True)
class PromptCounts:
    """The listed prompts that are refused, by reason and with the first of each; and planned prompts not listed."""

    listed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    first_refusals: dict[str, str] = field(default_factory=dict)
    unlisted: int = 0

    def refuse(self, uri: str, reason: str, detail: str) -> None:
        self.refused[reason] += 1
        self.first_refusals.setdefault(reason, f"{uri}: {detail}")


def up_to_date_plan(
    dataset: Dataset, prompts: Sequence[Prompt], planner: PromptPlanner, settings: DatasetSettings, unit_rows: int
) -> tuple[Plan, PromptCounts]:
    """Return the plan of a dataset, created or extended if necessary, and the counts of the prompts.

    Raises ConfigMismatchError if the dataset was created with other settings, or a prompt has changed since, or what is
    missing cannot be generated with the noise of what is there.
    """
    while True:
        plan = dataset.plan() if dataset.plan_path.is_file() else None
        known = {}
        if plan is not None:
            plan.check_settings(settings, dataset.root)
            known = known_prompts(dataset, plan)
        with PlanWriter(unit_rows) as writer:
            update = PlanUpdate(planner, known, writer, plan.next_index() if plan is not None else 0)
            for prompt in tqdm(prompts, "plan", unit="prompt", disable=None):
                update.add(prompt)
            update.check_unchanged(dataset)
            if settings.generation and (writer.inputs or (plan is not None and dataset.missing_units(plan))):
                check_noise(settings.generation["sampling"], dataset.root)
            if plan is not None and not writer.inputs:
                update.counts.unlisted = len(set(known) - {prompt.key for prompt in prompts})
                return plan, update.counts
            if plan is None:
                writer.freeze(dataset.plan_path, settings)
            else:
                writer.extend(plan, update.retried)
        # Another job may have written its plan first; the prompts are then compared with that plan.


class PlanUpdate:
    """Compares prompts with those that are planned, and adds what is missing to a writer."""

    def __init__(self, planner: PromptPlanner, known: Mapping[str, KnownPrompt], writer: PlanWriter, next_index: int):
        self.planner, self.known, self.writer = planner, known, writer
        self.counts = PromptCounts()
        self.retried: Counter[str] = Counter()
        self.changed: list[tuple[Prompt, Prompt]] = []
        self._next_index = next_index

    def add(self, prompt: Prompt) -> None:
        """Add one prompt, unless it is planned as it is."""
        self.counts.listed += 1
        prompt, known = self.planner.resolved(prompt), self.known.get(prompt.key)
        if known is not None and prompt == replace(known.prompt, uri=prompt.uri):
            if prompt.refusal:
                self.counts.refuse(prompt.uri, *prompt.refusal)
            elif known.refused:
                self.counts.refuse(prompt.uri, known.refused, DIED)  # the only reason that a worker has
            return
        size, planned = self.planner.planned(prompt, known.src_index if known else self._next_index)
        if planned.refused_reason:
            self.counts.refuse(prompt.uri, planned.refused_reason, planned.refused_detail or "")
        if known is None:
            self.writer.add(size, planned)
            self._next_index += 1
        elif not planned.refused_reason and known.refused:
            self.writer.add(size, planned)
            self.retried[known.refused] += 1
        elif not planned.refused_reason:
            self.changed.append((known.prompt, prompt))

    def check_unchanged(self, dataset: Dataset) -> None:
        """Raise ConfigMismatchError if prompts have other fields than those they were planned with."""
        if not self.changed:
            return
        shown = [_difference(old, new) for old, new in self.changed[:_NAMED_PROMPTS]]
        if len(self.changed) > _NAMED_PROMPTS:
            shown.append(f"and {len(self.changed) - _NAMED_PROMPTS} more")
        raise ConfigMismatchError(
            f"{dataset.root} was created with different prompts of the same keys:\n  "
            + "\n  ".join(shown)
            + "\ngive a changed prompt a new key (in a .txt file, where the line number is the key, append it),"
            " or write a new dataset"
        )


def count_died(dataset: Dataset, units: Iterable[int], prompts: Iterable[Prompt], counts: PromptCounts) -> None:
    """Count the listed prompts that killed their workers in these units, as far as these are committed."""
    listed = {prompt.key for prompt in prompts}
    for record in map(dataset.record, filter(dataset.is_committed, units)):
        if WORKER_DIED in record.quarantined:
            for refusal in dataset.refusals(record):
                if refusal.reason == WORKER_DIED and refusal.key in listed:
                    counts.refuse(refusal.uri, refusal.reason, refusal.detail)


def compare_prompts(dataset: Dataset, prompts: Sequence[Prompt]) -> Change:
    """Compare prompts with those that a dataset was generated from, without a model.

    A prompt that continues a clip, or edits an image, takes its size and frame rate from there, so these are not
    compared; nor are those of a refused prompt.
    """
    known, change = known_prompts(dataset, dataset.plan()), Change.NONE
    for prompt in prompts:
        if (planned := known.get(prompt.key)) is None:
            change = Change.GROWN
            continue
        old = replace(planned.prompt, uri=prompt.uri)
        if prompt.video or prompt.refusal or not prompt.height:
            old = replace(old, height=prompt.height, width=prompt.width, fps=prompt.fps)
        if prompt != old:
            if not prompt.refusal and not planned.refused:
                return Change.CHANGED
            change = Change.GROWN  # the job corrects or reports it, and keeps what is generated
    return change


def _difference(old: Prompt, new: Prompt) -> str:
    names = [name for name in Prompt.__slots__ if name != "uri" and getattr(old, name) != getattr(new, name)]
    fields = (f"{name}: recorded {getattr(old, name)!r:.60}, given {getattr(new, name)!r:.60}" for name in names)
    return f"{new.uri}: prompt {new.key!r}: {'; '.join(fields)}"


def known_prompts(dataset: Dataset, plan: Plan) -> dict[str, KnownPrompt]:
    """Return the planned prompts by key; of several with one key, the accepted one or else the last."""
    known: dict[str, KnownPrompt] = {}
    committed = set(dataset.committed_units())
    for number in range(len(plan)):
        unit, reasons = plan.unit(number), {}
        if number in committed and (record := dataset.record(number)).quarantined:
            reasons = {refusal.src_index: refusal.reason for refusal in dataset.refusals(record)}
        for item in unit.inputs:
            refused = reasons.get(item.src_index, item.refused_reason)
            prompt = planned_prompt(unit, item, plan.settings.codec)
            if item.refused_reason:
                prompt = replace(prompt, refusal=(item.refused_reason, item.refused_detail or ""))
            if refused is None or item.key not in known or known[item.key].refused:
                known[item.key] = KnownPrompt(item.src_index, prompt, refused)
    return known
