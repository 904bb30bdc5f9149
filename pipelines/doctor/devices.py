"""The device that the other checks run on, and its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipelines.doctor.check import Finding, Verdict
from pipelines.doctor.isolated import Broken, Returned
from pipelines.doctor.machine import GIBIBYTE
from shared.device import DTYPES, setup_device

MIN_DEVICE_BYTES = 4 * GIBIBYTE
NEXT_STEP = "check npu-smi info and the installation of CANN, or use --device cpu"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The device that was set up, and how many of its kind there are; sizes are 0 if they are not known."""

    kind: str
    count: int
    name: str
    total_bytes: int
    free_bytes: int

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The number types that are offered on it."""
        return ("float32",) if self.kind == "CPU" else DTYPES


def probe_device(device: str, kernels: str) -> DeviceFacts:
    """Set the device up and compute on it. Raises DeviceError if it is missing."""
    kind = setup_device(device, kernels=kernels).kind
    import mindspore as ms

    (ms.ops.ones((2, 2)) + 1).asnumpy()  # the properties of a device are known once it has computed
    if kind == "CPU":
        return DeviceFacts(kind, os.cpu_count() or 1, "CPU", 0, 0)
    properties = ms.hal.get_device_properties(0, kind)
    count = ms.device_context.ascend.device_count()
    return DeviceFacts(kind, count, properties.name, properties.total_memory, properties.free_memory)


def judge_device(outcome: Returned | Broken) -> Finding:
    """Return the finding of a probe."""
    if isinstance(outcome, Broken):
        return Finding(Verdict.FAILED, outcome.problem, NEXT_STEP)
    facts: DeviceFacts = outcome.value
    if facts.kind == "CPU":
        return Finding(Verdict.PASSED, "the CPU; no NPU is used", facts={"kind": facts.kind})
    free, total = facts.free_bytes / GIBIBYTE, facts.total_bytes / GIBIBYTE
    reason = f"{facts.count} × {facts.name}; {free:.1f} of {total:.1f} GiB are free on the first"
    measured = {"count": facts.count, "free_bytes": facts.free_bytes, "total_bytes": facts.total_bytes}
    is_free = not facts.total_bytes or facts.free_bytes >= MIN_DEVICE_BYTES
    step = "end the other programs that use the device (npu-smi info lists them), or choose another one"
    return Finding.of(is_free, reason, f"{step} with ASCEND_RT_VISIBLE_DEVICES", measured)
