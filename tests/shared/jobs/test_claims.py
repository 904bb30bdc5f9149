"""Claims have one owner at a time; leases are taken over only from dead owners, whatever the clocks of the machines."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.jobs import claims as claims_module
from shared.jobs.claims import Leases, UnitClaims
from shared.jobs.file_locks import try_lock
from shared.jobs.job import ClaimStatus


class Clock:
    """The clock of one machine, in seconds, advanced by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def leases_of(owner: str, clock: Clock) -> Leases:
    """Return leases that are renewed by hand only: a third of their duration never passes."""
    return Leases(duration_s=3600, owner=owner, settle_s=0, now=clock)


def content(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_bytes()))


def test_one_owner_at_a_time(tmp_path: Path, clock: Clock) -> None:
    ours, theirs, path = leases_of("ours", clock), leases_of("theirs", clock), tmp_path / "claims" / "part-1"
    lease = ours.try_lease(path)
    assert lease is not None
    assert set(content(path)) == {"owner", "expires", "n"}
    assert content(path)["owner"] == "ours"
    assert theirs.try_lease(path) is None
    assert ours.try_lease(path) is None, "the owner may not claim a unit twice either"
    lease.release()
    assert not path.exists()
    assert theirs.try_lease(path) is not None


def test_an_abandoned_lease_is_taken_over_after_it_was_observed_for_its_duration(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "part-1"
    assert leases_of("dead", clock).try_lease(path)
    clock.seconds += 99_999  # in which the lease was not observed
    theirs = leases_of("theirs", clock)
    assert theirs.try_lease(path) is None
    clock.seconds += 3599
    assert theirs.try_lease(path) is None
    clock.seconds += 1
    lease = theirs.try_lease(path)
    assert lease is not None
    assert content(path)["owner"] == "theirs"
    lease.release()
    assert not path.exists()


def test_a_lease_that_is_renewed_is_never_taken_over(tmp_path: Path, clock: Clock) -> None:
    ours, theirs, path = leases_of("ours", clock), leases_of("theirs", clock), tmp_path / "part-1"
    assert ours.try_lease(path)
    for renewals in range(1, 10):
        clock.seconds += 3599
        ours.renew()
        assert content(path)["n"] == renewals
        assert theirs.try_lease(path) is None


def test_of_two_processes_that_take_over_at_once_one_owns_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part-1"
    assert leases_of("dead", clock).try_lease(path)
    first, second = leases_of("first", clock), leases_of("second", clock)
    assert first.try_lease(path) is second.try_lease(path) is None
    clock.seconds += 3600
    write, owners = claims_module.write_file, []

    def write_and_let_the_other_do_the_same(path: Path, data: bytes) -> None:
        write(path, data)
        monkeypatch.setattr(claims_module, "write_file", write)
        owners.append(second.try_lease(path))

    monkeypatch.setattr(claims_module, "write_file", write_and_let_the_other_do_the_same)
    owners.append(first.try_lease(path))
    # the second one had observed the dead owner's content; now it is the first one's, so its wait starts again
    assert [owner is not None for owner in owners] == [False, True]
    assert content(path)["owner"] == "first"


def test_a_process_that_was_overwritten_during_its_takeover_does_not_own_the_lease(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part-1"
    assert leases_of("dead", clock).try_lease(path)
    late = leases_of("late", clock)
    assert late.try_lease(path) is None
    clock.seconds += 3600
    write = claims_module.write_file

    def write_and_be_overwritten(path: Path, data: bytes) -> None:
        write(path, data)
        write(path, b'{"owner": "another", "n": 0}')

    monkeypatch.setattr(claims_module, "write_file", write_and_be_overwritten)
    assert late.try_lease(path) is None


def test_an_owner_that_resumes_after_a_takeover_notices_and_leaves_the_lease_alone(
    tmp_path: Path, clock: Clock
) -> None:
    ours, theirs, path = leases_of("ours", clock), leases_of("theirs", clock), tmp_path / "part-1"
    lease = ours.try_lease(path)
    assert lease is not None
    assert theirs.try_lease(path) is None
    clock.seconds += 3600
    assert theirs.try_lease(path)
    ours.renew()
    assert lease.is_lost
    lease.release()
    assert content(path)["owner"] == "theirs"


@pytest.mark.parametrize("garbage", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_lease_expires_like_any_other(garbage: bytes, tmp_path: Path, clock: Clock) -> None:
    path, ours = tmp_path / "part-1", leases_of("ours", clock)
    path.write_bytes(garbage)
    assert ours.try_lease(path) is None
    clock.seconds += 3600
    assert ours.try_lease(path) is not None


def test_a_store_that_fails_temporarily_costs_no_lease(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, path = leases_of("ours", clock), tmp_path / "part-1"
    lease = ours.try_lease(path)
    assert lease is not None

    def fail(path: Path, data: bytes) -> None:
        raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(claims_module, "write_file", fail)
        ours.renew()
    ours.renew()
    assert not lease.is_lost
    assert content(path)["n"] == 2


def test_a_store_that_does_not_respond_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "CLOSE_S", 0.1)
    path, is_blocked, gate = tmp_path / "part-1", threading.Event(), threading.Event()

    def block(path: Path, data: bytes) -> None:
        is_blocked.set()
        gate.wait()

    with Leases(duration_s=0.03) as leases:
        lease = leases.try_lease(path)
        assert lease is not None
        monkeypatch.setattr(claims_module, "write_file", block)
        assert is_blocked.wait(30)
        lease.release()
    gate.set()
    assert content(path)["owner"] == leases.owner, "it expires"


def test_one_thread_renews_all_leases_and_ends_with_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"part-{number}" for number in range(3)]
    before = threading.active_count()
    with Leases(duration_s=0.03) as leases:
        assert all(leases.try_lease(path) for path in paths)
        assert threading.active_count() == before + 1
        for _ in range(1000):
            if all(content(path)["n"] for path in paths):
                break
            threading.Event().wait(0.02)
        assert all(content(path)["n"] for path in paths)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


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
