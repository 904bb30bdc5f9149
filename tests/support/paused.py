"""Runs a command up to an exact step: it stops right before one change to the disk and waits there.

    python -m tests.support.paused PATTERN NUMBER FOLDER emu3-arguments…

The step is change number NUMBER, counted from 0, whose path matches PATTERN: a file or folder that is created under
that name, or renamed or linked to it. The command then creates FOLDER/paused and waits for FOLDER/continue.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.support.command import PATIENCE_S, start_module, wait_until

CHANGES = {"os.rename": 1, "os.link": 1, "os.mkdir": 0}  # audit event: which argument is the new path


class PausedCommand:
    """A command that has reached its step; `process` is to be killed, or sent a signal and then resumed."""

    def __init__(self, pattern: str, number: int, folder: Path, *arguments: object, **changes: str):
        folder.mkdir(parents=True, exist_ok=True)
        self._continue = folder / "continue"
        paused = folder / "paused"
        paused.unlink(missing_ok=True)
        self._continue.unlink(missing_ok=True)
        command = ("tests.support.paused", pattern, number, folder, *arguments)
        self.process: subprocess.Popen[str] = start_module(*command, **changes)
        wait_until(paused.exists, self.process)

    def resume(self) -> None:
        self._continue.touch()


def pause_before(pattern: str, number: int, folder: Path) -> None:
    """Install the pause in this process."""
    matches = itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES:
            return
        if fnmatchcase(os.fspath(arguments[CHANGES[event]]), pattern) and next(matches) == number:
            (folder / "paused").touch()
            deadline_s = time.monotonic() + PATIENCE_S
            while not (folder / "continue").exists():
                assert time.monotonic() < deadline_s, "the test did not resume the command"
                time.sleep(0.005)

    sys.addaudithook(watch)


if __name__ == "__main__":
    from pipelines.cli import main

    pause_before(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    main(args=sys.argv[4:], prog_name="emu3")
