"""What every job over the units of a plan does: claim units, refuse other numerics, note progress."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared.dataset import CommitRecord, Dataset
from shared.errors import ConfigMismatchError
from shared.fingerprint import settings_diff
from shared.locks import Claim, try_claim
from shared.plan import Plan, Unit
from shared.signals import StopFlag


class UnitQueue:
    """The missing units of a plan, each claimed while this process works on it; a context manager."""

    def __init__(self, dataset: Dataset, plan: Plan, stop: StopFlag):
        self.dataset = dataset
        self.plan = plan
        self.stop = stop
        self.committed: list[CommitRecord] = []
        self._claims: dict[int, Claim] = {}
        self._began: dict[int, float] = {}

    def __enter__(self) -> UnitQueue:
        return self

    def __exit__(self, *error: object) -> None:
        for claim in self._claims.values():
            claim.release()

    def take(self, missing: Sequence[int]) -> Iterator[Unit]:
        """Units that no other job works on, until the stop flag is set."""
        for number in missing:
            if self.stop.is_set():
                return
            claim = try_claim(self.dataset.claim_path(number))
            if claim is None:
                continue
            if self.dataset.is_committed(number):
                claim.release()
                continue
            self._claims[number] = claim
            yield self.plan.unit(number)

    def begin(self, unit: int) -> None:
        """Notes when work on a unit begins, for the log of progress."""
        self._began.setdefault(unit, time.monotonic())

    def done(self, record: CommitRecord) -> None:
        """Releases a unit that was committed and logs it."""
        self.committed.append(record)
        self._claims.pop(record.unit).release()
        elapsed_s = round(time.monotonic() - self._began.pop(record.unit), 3)
        self.dataset.add_event(event="unit", unit=record.unit, rows=record.rows, elapsed_s=elapsed_s, time=time.time())


def check_numerics(dataset: Dataset, numerics: Mapping[str, Any]) -> None:
    """Raises ConfigMismatchError if units were committed on another device, number type, version or batch."""
    recorded = next((record.numerics for record in dataset.commit_records() if record.numerics), numerics)
    if diff := settings_diff(recorded, numerics, "numerics."):
        raise ConfigMismatchError(
            f"{dataset.root} was begun with other numerics, results may differ in places:\n  "
            + "\n  ".join(diff)
            + "\nuse the recorded settings, or --allow-numerics-change"
        )
