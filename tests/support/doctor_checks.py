"""Checks that pass, fail, crash and hang, and a call in place of a process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from pipelines.doctor.check import Check, Finding, Setting, Verdict
from pipelines.doctor.devices import DeviceFacts
from pipelines.doctor.isolated import Broken, Returned, first_line

NPU = DeviceFacts("Ascend", 2, "Ascend910B2", 64 << 30, 60 << 30)
CPU = DeviceFacts("CPU", 2, "CPU", 0, 0)


def passing(setting: Setting, dtype: str) -> Finding:
    return Finding(Verdict.PASSED, f"{setting.device} {dtype}", measured={"images_per_s": 2.5})


def crashing(setting: Setting, dtype: str) -> Finding:
    print("an operator failed", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable")


def hanging(setting: Setting, dtype: str) -> Finding:
    time.sleep(600)
    raise AssertionError("unreachable")


def raising(setting: Setting, dtype: str) -> Finding:
    raise RuntimeError("\n----\nThe operator has no kernel.\n----\n")


def check(run: Callable[[Setting, str], Finding], **changes: Any) -> Check:
    return Check(run.__name__, "group", run, **changes)


def call_here(function: Callable[..., Any], *arguments: Any, limit_s: float) -> Returned | Broken:
    """Call a function in this process."""
    try:
        return Returned(function(*arguments), 1 << 30, 0)
    except Exception as error:
        return Broken(first_line(error))


def calls_on(device: DeviceFacts) -> Callable[..., Returned | Broken]:
    """Return a call in this process that finds this device."""

    def call(function: Callable[..., Any], *arguments: Any, limit_s: float) -> Returned | Broken:
        if function.__name__ == "probe_device":
            return Returned(device, 0, 0)
        return call_here(function, *arguments, limit_s=limit_s)

    return call
