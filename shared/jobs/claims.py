"""Claims on the units of a job: locks between the processes of one machine, or leases between machines.

Claims only avoid duplicate work. Correctness rests on the commit records alone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from shared.jobs.file_locks import FileLock
from shared.jobs.leases import Lease
from shared.jobs.units import Units


class ClaimStatus(Enum):
    """The outcome of an attempt to claim a unit."""

    ACQUIRED = auto()
    HELD_ELSEWHERE = auto()
    COMMITTED = auto()


class Claims(Protocol):
    """Decides which process works on which unit."""

    def claim(self, unit: int) -> ClaimStatus: ...

    def release(self, unit: int) -> None: ...


class NoClaims:
    """Grants every claim: for jobs that exclude other jobs as a whole."""

    def claim(self, unit: int) -> ClaimStatus:
        return ClaimStatus.ACQUIRED

    def release(self, unit: int) -> None:
        pass


class UnitClaims:
    """The units claimed by this process; a context manager that releases them.

    `acquire` is `try_lock` or `Leases.try_lease`.
    """

    def __init__(self, units: Units, acquire: Callable[[Path], FileLock | Lease | None]):
        self._units = units
        self._acquire = acquire
        self._held: dict[int, FileLock | Lease] = {}

    def __enter__(self) -> UnitClaims:
        return self

    def __exit__(self, *error: object) -> None:
        for unit in list(self._held):
            self.release(unit)

    def claim(self, unit: int) -> ClaimStatus:
        """Claim a unit unless another job holds it or it is committed."""
        held = self._acquire(self._units.claim_path(unit))
        if self._units.is_committed(unit):  # checked after acquiring: its owner may just have committed and released it
            if held is not None:
                held.release()
            return ClaimStatus.COMMITTED
        if held is None:
            return ClaimStatus.HELD_ELSEWHERE
        self._held[unit] = held
        return ClaimStatus.ACQUIRED

    def release(self, unit: int) -> None:
        self._held.pop(unit).release()
