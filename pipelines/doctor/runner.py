"""Runs the checks: those of the machine here, and each of those of the device in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipelines.doctor.check import PLAIN_KERNELS, Check, Finding, Result, Setting, Verdict
from pipelines.doctor.checks import CheckTable
from pipelines.doctor.devices import DeviceFacts, judge_device, probe_device
from pipelines.doctor.isolated import Broken, Returned, call_isolated
from pipelines.doctor.options import DoctorOptions

DEVICE = "device"
LOG_LINES = 30
Call = Callable[..., "Returned | Broken"]
Planned = tuple[Check, str, Setting]


class Doctor:
    """The checks of one run. `call` runs a function in a process of its own."""

    def __init__(self, options: DoctorOptions, table: CheckTable, call: Call = call_isolated):
        self.options, self.call = options, call
        self.setting = Setting(options.device, options.kernels)
        if options.time_limit_s:
            self.setting = replace(self.setting, limit_s=options.time_limit_s)
        self.table = table.select(options.only)
        self.device: DeviceFacts | None = None

    def run(self, on_start: Callable[[str, int], None]) -> Iterator[Result]:
        """Yield a result for each check; `on_start` receives its name and how many are left, this one included."""
        setting = self.setting
        for number, check in enumerate(self.table.machine):
            on_start(check.name, len(self.table.machine) - number + 1 + len(self.table.device))
            yield _run_here(check, setting)
        on_start(DEVICE, 1 + len(self.table.device))
        yield self._probe(setting)
        planned = list(self._planned(setting))
        for number, (check, dtype, chosen) in enumerate(planned):
            on_start(f"{check.name} {dtype}".strip(), len(planned) - number)
            yield self._check(check, dtype, chosen)

    def _probe(self, setting: Setting) -> Result:
        began = time.monotonic()
        outcome = self.call(probe_device, setting.device, setting.kernels, limit_s=setting.limit_s)
        if isinstance(outcome, Returned):
            self.device = outcome.value
        return Result(DEVICE, "", judge_device(outcome), time.monotonic() - began, _log(outcome))

    def _planned(self, setting: Setting) -> Iterator[Planned]:
        if self.device:
            setting = replace(setting, device=self.device.kind.lower(), dtypes=self.device.dtypes)
        for check in self.table.device:
            yield from ((check, dtype, setting) for dtype in check.dtypes(setting))

    def _check(self, check: Check, dtype: str, setting: Setting) -> Result:
        if self.device is None:
            return Result(check.name, "", Finding(Verdict.SKIPPED, "the device cannot be used"), 0.0)
        if check.needs_npu and self.device.kind == "CPU":
            return Result(check.name, "", Finding(Verdict.SKIPPED, check.needs_npu), 0.0)
        began = time.monotonic()
        outcome = self.call(check.run, setting, dtype, limit_s=setting.limit_s)
        return Result(check.name, dtype, _finding(outcome), time.monotonic() - began, _log(outcome))


def _run_here(check: Check, setting: Setting) -> Result:
    began = time.monotonic()
    try:
        finding = check.run(setting, "")
    except OSError as error:
        finding = Finding(Verdict.FAILED, str(error), "report the JSON file")
    return Result(check.name, "", finding, time.monotonic() - began)


def _finding(outcome: Returned | Broken) -> Finding:
    """Return the finding of a process, with its peak memory."""
    if isinstance(outcome, Broken):
        return Finding(Verdict.FAILED, outcome.problem, PLAIN_KERNELS)
    finding: Finding = outcome.value
    peaks = {"peak_host_bytes": outcome.peak_host_bytes, "peak_device_bytes": outcome.peak_device_bytes}
    return replace(finding, measured={**finding.measured, **peaks})


def _log(outcome: Returned | Broken) -> str:
    return "\n".join(outcome.log.splitlines()[-LOG_LINES:]) if isinstance(outcome, Broken) else ""
