"""Claims for machines that share a directory or a bucket but no kernel.

A lease is a small file that its owner keeps rewriting. Clocks of machines differ, so nobody compares times: a lease
has expired for whoever has watched it unchanged for `duration_s` of the own monotonic clock. Leases spare double
work; correctness rests on the commit records alone, so that a lease lost by a long pause is no harm.
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

from shared.storage.atomic import create_file, write_file
from shared.storage.digests import canonical_json
from shared.storage.paths import make_directory


def this_process() -> str:
    """A name that no other owner of leases has, readable for people."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(slots=True)
class Lease:
    """A unit that this process works on. `is_lost` is set once another one was seen to have taken it over."""

    path: Path
    leases: Leases
    renewals: int = 0
    is_lost: bool = False

    def release(self) -> None:
        self.leases.give_back(self)


@dataclass(slots=True)
class _Watched:
    content: bytes
    since_s: float


@dataclass
class Leases:
    """All leases of one process, renewed by one thread; a context manager that gives them back.

    A call of the store that fails is made again with the next renewal. `settle_s` is longer than what lies between
    two machines' replacing the same expired lease.
    """

    duration_s: float = 60.0
    owner: str = field(default_factory=this_process)
    settle_s: float = 1.0
    now: Callable[[], float] = time.monotonic
    _held: dict[Path, Lease] = field(default_factory=dict)
    _watched: dict[Path, _Watched] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._thread:
            self._thread.join()
        for lease in list(self._held.values()):
            lease.release()

    def try_lease(self, path: Path) -> Lease | None:
        """Claims a unit, or returns None while another process holds it, as far as this one can know.

        A lease that its owner left behind is taken over by a later call, once it was seen unchanged for `duration_s`.
        """
        make_directory(path.parent)
        if create_file(path, self._content(0)) or self._has_taken_over(path):
            return self._hold(Lease(path, self))
        return None

    def _content(self, renewals: int) -> bytes:
        expires = datetime.now(timezone.utc) + timedelta(seconds=self.duration_s)  # for people to read
        return canonical_json({"owner": self.owner, "expires": expires.isoformat(), "n": renewals}).encode()

    def _has_taken_over(self, path: Path) -> bool:
        content = _read(path)
        watched = self._watched.get(path)
        if content is None or watched is None or watched.content != content:
            if content is not None:
                self._watched[path] = _Watched(content, self.now())
            return False
        if self.now() - watched.since_s < self.duration_s:
            return False
        del self._watched[path]
        write_file(path, self._content(0))
        self._closed.wait(self.settle_s)  # of several that replace it, the last one owns it
        return self._is_ours(path)

    def _is_ours(self, path: Path) -> bool:
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
        """Rewrites every lease held; one that belongs to another owner by now is lost."""
        for lease in list(self._held.values()):
            with self._lock:
                if lease.path in self._held:
                    self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        try:
            if self._is_ours(lease.path):
                lease.renewals += 1
                write_file(lease.path, self._content(lease.renewals))
            else:
                lease.is_lost = True
        except OSError:
            return  # the store may be back at the next renewal, well before the lease expires
        if lease.is_lost:
            del self._held[lease.path]

    def give_back(self, lease: Lease) -> None:
        """Removes a lease unless it is another's by now."""
        with self._lock:
            if self._held.pop(lease.path, None) and self._is_ours(lease.path):
                lease.path.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """None if the lease has been given back."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
