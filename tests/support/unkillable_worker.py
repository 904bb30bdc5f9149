"""A command whose first worker is suspended and receives no signal, like one that waits for a dead disk.

python -m tests.support.unkillable_worker job FOLDER
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.popen_fork import Popen
from pathlib import Path

import click

from pipelines.cli import RelayGroup
from shared.jobs import local_engine, watchdog
from shared.jobs.local_engine import run_local
from tests.support.toy_results import started, wait_until
from tests.support.toy_worker import Toy, toy_job


@click.group(cls=RelayGroup)
def main() -> None:
    """The group of commands that `emu3` is."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def job(folder: Path) -> None:
    """Run a toy job of two workers to its end."""
    toy = Toy(folder, held_from=0)

    def suspend_one() -> None:
        wait_until(lambda: len(started(folder)) == 2)
        os.kill(started(folder)[0], signal.SIGSTOP)
        wait_until(lambda: len(started(folder)) == 3)
        toy.release()

    threading.Thread(target=suspend_one).start()
    run_local(toy_job(toy, 4, [], []), workers=2, backoff_s=0)
    print("all units are done")


if __name__ == "__main__":
    Popen._send_signal = lambda self, number: None  # type: ignore[attr-defined]
    local_engine.EXIT_GRACE_S = 0.1
    watchdog.SUSPENDED_LIMIT_S = 0.3
    main()
