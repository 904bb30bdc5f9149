"""Claims of the units of a job, by locks between processes of one machine or by leases between machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shared.jobs.job import Claimed, Releasable


class UnitClaims:
    """The units that this process works on; a context manager that gives them back.

    `try_to_claim` is `locks.try_claim` or `Leases.try_lease`; `is_committed` tells units that others have done.
    """

    def __init__(
        self,
        path_of: Callable[[int], Path],
        is_committed: Callable[[int], bool],
        try_to_claim: Callable[[Path], Releasable | None],
    ):
        self._path_of = path_of
        self._is_committed = is_committed
        self._try_to_claim = try_to_claim
        self._claims: dict[int, Releasable] = {}

    def __enter__(self) -> UnitClaims:
        return self

    def __exit__(self, *error: object) -> None:
        for unit in list(self._claims):
            self.release(unit)

    def claim(self, unit: int) -> Claimed:
        """Claims a unit, unless another job works on it or it is committed."""
        claim = self._try_to_claim(self._path_of(unit))
        if self._is_committed(unit):
            if claim is not None:
                claim.release()
            return Claimed.COMMITTED
        if claim is None:
            return Claimed.ELSEWHERE
        self._claims[unit] = claim
        return Claimed.HERE

    def release(self, unit: int) -> None:
        self._claims.pop(unit).release()


class NoClaims:
    """For jobs that keep others away as a whole."""

    def claim(self, unit: int) -> Claimed:
        return Claimed.HERE

    def release(self, unit: int) -> None:
        pass
