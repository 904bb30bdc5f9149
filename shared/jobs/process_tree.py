"""Processes that end with their parent, and what the system knows about a process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

PARENT_VARIABLE = "EMU3_PARENT_PID"
POLL_S = 0.5
_PR_SET_PDEATHSIG = 1
_unkillable: list[int] = []


def environment_of_child() -> dict[str, str]:
    """Return an environment for a command that calls `exit_with_parent`."""
    return {**os.environ, PARENT_VARIABLE: str(os.getpid())}


def exit_with_parent() -> None:
    """End this process as soon as its parent ends, however it ends, if the parent asks for it in the environment."""
    parent = int(os.environ.pop(PARENT_VARIABLE, "0"))  # children of this process have another parent
    if not parent:
        return
    if not signal_at_parent_death(signal.SIGKILL):
        threading.Thread(target=_exit_after, args=(parent,), name="parent-watch", daemon=True).start()
    if os.getppid() != parent:  # it ended before the lines above
        os._exit(1)


def signal_at_parent_death(number: signal.Signals) -> bool:
    """Ask the kernel to send this process a signal when its parent ends. Return whether the system supports that."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)


def kill_descendants() -> None:
    """Kill the children of this process and theirs. Without /proc they end by themselves once this process ends."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        if fields := process_fields(int(path.parent.name)):
            children[int(fields[1])].append(int(path.parent.name))
    pending = [os.getpid()]
    while pending:
        for pid in children[pending.pop()]:
            pending.append(pid)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def note_unkillable(pid: int, name: str) -> None:
    """Report a child that was killed and has not ended: it waits inside the kernel, for a device or a disk."""
    print(f"{name} (process {pid}) cannot be killed: it waits for a device or a disk; leaving it", file=sys.stderr)
    _unkillable.append(pid)


def exit_beside_unkillable(status: int) -> None:
    """End this process now if a child of it cannot be killed: at its regular end, Python would wait for the child."""
    if _unkillable:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def is_suspended(pid: int) -> bool:
    """Whether a process was stopped by SIGSTOP. False where there is no /proc."""
    return process_fields(pid)[:1] == ["T"]


def cpu_time_s(pid: int) -> float | None:
    """Return the CPU time that all threads of a process have taken, None where it cannot be read."""
    fields = process_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else None


def process_fields(pid: int) -> list[str]:
    """Return the state of a process, its parent and what follows in /proc/PID/stat; nothing if that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
