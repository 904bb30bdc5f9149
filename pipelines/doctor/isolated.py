"""A function in a process of its own: its crash or hang ends that process only.

On a device, operators run asynchronously, and after one fails all later calls of the process may fail.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from shared.errors import RelayError
from shared.jobs.process_tree import note_unkillable, signal_at_parent_death

EXIT_GRACE_S = 5.0  # for a killed process; one that waits for a dead device may never end
LOG_BYTES = 8000


@dataclass(frozen=True, slots=True)
class Returned:
    """The value of a function, and the memory that its process took at most."""

    value: Any
    peak_host_bytes: int
    peak_device_bytes: int


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a process returned no value; `log` is the end of what it printed."""

    problem: str
    log: str = ""


class IsolatedCall:
    """A call that is running. Use it as a context manager, which ends its process."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe(duplex=False)
        self.log = tempfile.NamedTemporaryFile(prefix="emu3-doctor-", suffix=".log")
        self.process = context.Process(target=_serve, args=(child_end, self.log.name, function, arguments))
        self.process.start()
        child_end.close()

    def __enter__(self) -> IsolatedCall:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.is_alive():
            self.process.kill()
            self.process.join(EXIT_GRACE_S)
            if self.process.is_alive():
                note_unkillable(self.process.pid or 0, self.process.name)
        self.connection.close()
        self.log.close()

    def outcome(self, limit_s: float) -> Returned | Broken:
        """Wait for the value."""
        if not wait([self.connection], limit_s):
            return Broken(f"no result within {limit_s:g} s: the process hung and was killed", self._printed())
        try:
            message: Returned | Broken = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(EXIT_GRACE_S)
            return Broken(f"the process died ({describe_exit(self.process.exitcode)})", self._printed())
        self.process.join(EXIT_GRACE_S)
        return message if isinstance(message, Returned) else Broken(message.problem, self._printed())

    def _printed(self) -> str:
        return Path(self.log.name).read_bytes()[-LOG_BYTES:].decode(errors="replace")


def call_isolated(function: Callable[..., Any], *arguments: Any, limit_s: float) -> Returned | Broken:
    """Call a function of a module in a process of its own."""
    with IsolatedCall(function, *arguments) as call:
        return call.outcome(limit_s)


def describe_exit(code: int | None) -> str:
    """Return an exit code as text, the name of the signal for a killed process."""
    if code is None:
        return "it does not end"
    if code < 0:
        return f"signal {-code}: {signal.strsignal(-code)}"
    return f"exit code {code}"


def _serve(connection: Connection, log: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call the function and send its value; what it prints goes to the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole process group: the parent decides
    signal_at_parent_death(signal.SIGKILL)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        value = function(*arguments)
        connection.send(Returned(value, _peak_host_bytes(), _peak_device_bytes()))
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        connection.send(Broken(first_line(error)))


def first_line(error: Exception) -> str:
    """Return the first line of a message with words in it: those of MindSpore begin with a rule."""
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if re.search(r"\w", line)), "")
    return text if isinstance(error, RelayError) else f"{type(error).__name__}: {text}"


def _peak_host_bytes() -> int:
    """Return the largest resident memory of this process, 0 without /proc."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _peak_device_bytes() -> int:
    """Return the largest allocation on an NPU, 0 if the process used none."""
    ms: Any = sys.modules.get("mindspore")
    if ms is None or ms.get_context("device_target") != "Ascend":
        return 0
    return int(ms.runtime.max_memory_allocated())
