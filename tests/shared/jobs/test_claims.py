"""Claims on units, by locks or by leases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.jobs.claims import ClaimStatus, UnitClaims
from shared.jobs.file_locks import try_lock
from shared.jobs.leases import Leases


@pytest.mark.parametrize("uses_leases", [False, True])
def test_a_unit_has_one_owner_until_it_is_released(uses_leases: bool, tmp_path: Path) -> None:
    def claims(owner: str) -> UnitClaims:
        acquire = Leases(duration_s=3600, owner=owner, settle_s=0).try_lease if uses_leases else try_lock
        units = SimpleNamespace(
            claim_path=lambda unit: tmp_path / "claims" / str(unit), is_committed=lambda unit: unit == 0
        )
        return UnitClaims(units, acquire)  # type: ignore[arg-type]

    with claims("ours") as ours, claims("theirs") as theirs:
        assert [ours.claim(unit) for unit in (0, 1)] == [ClaimStatus.COMMITTED, ClaimStatus.ACQUIRED]
        assert [theirs.claim(unit) for unit in (0, 1, 2)] == [
            ClaimStatus.COMMITTED,
            ClaimStatus.HELD_ELSEWHERE,
            ClaimStatus.ACQUIRED,
        ]
        ours.release(1)
        assert theirs.claim(1) is ClaimStatus.ACQUIRED
    assert list((tmp_path / "claims").iterdir()) == []
