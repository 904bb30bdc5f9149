"""Claims on the units of a job: locks between the processes of one machine, or leases between machines.

A lease is a small file that its owner keeps rewriting, for machines that share a directory or a bucket but no kernel.
The clocks of machines differ, so times are never compared: to another process a lease has expired once it has seen
the same content for `duration_s` of its own monotonic clock.
Claims only avoid duplicate work. Correctness rests on the commit records alone, so a lease lost in a long pause does
no harm.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from shared.jobs.file_locks import FileLock
from shared.jobs.job import ClaimStatus, Units
from shared.storage.atomic import create_file, write_file
from shared.storage.digests import canonical_json
from shared.storage.paths import make_directory

CLOSE_S = 5.0


class NoClaims:
    """Grants every claim: for jobs that exclude other jobs as a whole."""

    def claim(self, unit: int) -> ClaimStatus:
        return ClaimStatus.ACQUIRED

    def release(self, unit: int) -> None:
        pass


class UnitClaims:
    """The units claimed by this process; a context manager that releases them.

    `acquire` is `try_lock` or `Leases.try_lease`. `held_elsewhere` are units that another job held when last asked.
    """

    def __init__(self, units: Units, acquire: Callable[[Path], FileLock | Lease | None]):
        self._units = units
        self._acquire = acquire
        self._held: dict[int, FileLock | Lease] = {}
        self.held_elsewhere: set[int] = set()

    def __enter__(self) -> UnitClaims:
        return self

    def __exit__(self, *error: object) -> None:
        for unit in list(self._held):
            self.release(unit)

    def claim(self, unit: int) -> ClaimStatus:
        """Claim a unit unless another job holds it or it is committed."""
        held = self._acquire(self._units.claim_path(unit))
        self.held_elsewhere.discard(unit)
        if self._units.is_committed(unit):  # checked after acquiring: its owner may just have committed and released it
            if held is not None:
                held.release()
            return ClaimStatus.COMMITTED
        if held is None:
            self.held_elsewhere.add(unit)
            return ClaimStatus.HELD_ELSEWHERE
        self._held[unit] = held
        return ClaimStatus.ACQUIRED

    def release(self, unit: int) -> None:
        self._held.pop(unit).release()


def unique_owner() -> str:
    """Return a readable name that no other owner of leases has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(slots=True)
class Lease:
    """A claim held by this process. `is_lost` is set when another process is seen to have taken it over."""

    path: Path
    leases: Leases
    renewals: int = 0
    is_lost: bool = False

    def release(self) -> None:
        self.leases.release(self)


@dataclass(slots=True)
class _Observation:
    """The content of a lease held elsewhere, and when this process first read it."""

    content: bytes
    since_s: float


@dataclass
class Leases:
    """All leases of one process, renewed by one thread; a context manager that releases them.

    If the store fails, the call is repeated with the next renewal. `settle_s` must be longer than the time between two
    machines replacing the same expired lease.
    """

    duration_s: float = 60.0
    owner: str = field(default_factory=unique_owner)
    settle_s: float = 1.0
    now: Callable[[], float] = time.monotonic
    _held: dict[Path, Lease] = field(default_factory=dict)
    _observed: dict[Path, _Observation] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._thread:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():  # blocked by a store that does not respond: the leases expire
                return
        for lease in list(self._held.values()):
            lease.release()

    def try_lease(self, path: Path) -> Lease | None:
        """Acquire the lease at `path`, or return None while another process appears to hold it.

        An abandoned lease is taken over by a later call, once its content has not changed for `duration_s`.
        """
        make_directory(path.parent)
        if create_file(path, self._content(0)) or self._take_over_expired(path):
            return self._hold(Lease(path, self))
        return None

    def _content(self, renewals: int) -> bytes:
        expires = datetime.now(timezone.utc) + timedelta(seconds=self.duration_s)  # for people; never read by programs
        return canonical_json({"owner": self.owner, "expires": expires.isoformat(), "n": renewals}).encode()

    def _take_over_expired(self, path: Path) -> bool:
        content = _read(path)
        observed = self._observed.get(path)
        if content is None or observed is None or observed.content != content:
            if content is not None:
                self._observed[path] = _Observation(content, self.now())
            return False
        if self.now() - observed.since_s < self.duration_s:
            return False
        del self._observed[path]
        write_file(path, self._content(0))
        self._closed.wait(self.settle_s)  # of several processes that replace it, the last one owns it
        return self._is_own(path)

    def _is_own(self, path: Path) -> bool:
        try:
            return bool(json.loads(_read(path) or b"{}").get("owner") == self.owner)
        except (ValueError, AttributeError):
            return False

    def _hold(self, lease: Lease) -> Lease:
        with self._lock:
            self._held[lease.path] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_until_closed, name="leases", daemon=True)
                self._thread.start()
        return lease

    def _renew_until_closed(self) -> None:
        while not self._closed.wait(self.duration_s / 3):
            self.renew()

    def renew(self) -> None:
        """Rewrite every lease held. A lease that belongs to another owner by now is lost."""
        for lease in list(self._held.values()):
            with self._lock:
                if lease.path in self._held:
                    self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        try:
            if self._is_own(lease.path):
                lease.renewals += 1
                write_file(lease.path, self._content(lease.renewals))
            else:
                lease.is_lost = True
        except OSError:
            return  # try again at the next renewal, well before the lease expires
        if lease.is_lost:
            del self._held[lease.path]

    def release(self, lease: Lease) -> None:
        """Delete a lease unless another process has taken it over. If the store does not respond, the lease expires."""
        if not self._lock.acquire(timeout=CLOSE_S):  # held by a renewal that is blocked
            return
        try:
            if self._held.pop(lease.path, None) and self._is_own(lease.path):
                lease.path.unlink(missing_ok=True)
        finally:
            self._lock.release()


def _read(path: Path) -> bytes | None:
    """Return the content, or None if the lease has been released."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
