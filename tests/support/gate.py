"""A gate that stops the workers of a stand-in job between units, so that a test can act at a known moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

from shared.jobs.signals import StopFlag

FOLDER_VARIABLE = "EMU3_TEST_GATE"
PATIENCE_S = 240.0
COMMIT_S = 0.2


class Gate:
    """The test's side: each ticket lets one worker encode one batch."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder
        self.environment = {FOLDER_VARIABLE: str(folder)}
        self._tickets = 0
        self._admitted_s = -COMMIT_S

    def admit_one(self) -> None:
        """Add a ticket, unless one is waiting to be taken or was added just now and may lead to a commit soon."""
        now_s = time.monotonic()
        if now_s - self._admitted_s > COMMIT_S and not any(self.folder.glob("ticket-*")):
            (self.folder / f"ticket-{self._tickets}").touch()
            self._tickets += 1
            self._admitted_s = now_s

    def open(self) -> None:
        """Let all workers pass from now on."""
        (self.folder / "open").touch()


def pass_gate(stop: StopFlag) -> None:
    """The worker's side: wait for a ticket, for the gate to open, or for the stop flag."""
    if not (folder := os.environ.get(FOLDER_VARIABLE)):
        return
    deadline_s = time.monotonic() + PATIENCE_S
    while not (stop.is_set() or (Path(folder) / "open").exists() or _took_ticket(Path(folder))):
        assert time.monotonic() < deadline_s, "the test did not let this worker pass"
        time.sleep(0.005)


def _took_ticket(folder: Path) -> bool:
    for ticket in folder.glob("ticket-*"):
        try:
            ticket.unlink()
        except FileNotFoundError:
            continue  # another worker was faster
        return True
    return False
