"""Runs the command in a forked child, which takes milliseconds and turns a crash into an exit code.

For scripts that tests start as processes of their own: forking a process that has threads is not safe.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import tqdm  # noqa: F401  imported once, before the forks

import pipelines.cli  # noqa: F401

pa.array([0])  # imports pandas if it is installed, which takes 200 ms


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code (negative: killed by that signal) and everything that was printed."""

    exit_code: int
    printed: str

    @property
    def has_crashed(self) -> bool:
        return self.exit_code < 0 or "Traceback" in self.printed


def run_forked(arguments: Sequence[str], prepare: Callable[[], None] = lambda: None) -> Outcome:
    """Run `emu3 arguments…` in a child, which first calls `prepare`."""
    with tempfile.TemporaryFile() as output:
        status = os.waitpid(start_forked(arguments, output.fileno(), prepare), 0)[1]
        output.seek(0)
        return Outcome(os.waitstatus_to_exitcode(status), output.read().decode(errors="replace"))


def start_forked(arguments: Sequence[str], output: int, prepare: Callable[[], object] = lambda: None) -> int:
    """Start `emu3 arguments…` in a child, which first calls `prepare`; return its process id."""
    child = os.fork()
    if not child:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os._exit(_run(arguments, prepare))
    return child


def _run(arguments: Sequence[str], prepare: Callable[[], object]) -> int:
    import sys
    import traceback

    from pipelines.cli import main

    code = 1
    try:
        prepare()
        main(args=list(arguments), prog_name="emu3")
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
