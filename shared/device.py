"""The one place that knows which device MindSpore runs on, and how it is set up there.

What differs by device: the default number type, the batch of an encode job, and how kernels are launched.
Nothing here has run on an NPU yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shared.errors import DeviceError

DEVICES = ("auto", "cpu", "ascend")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that was set up: `kind` is CPU or Ascend, `dtype` float32, float16 or bfloat16."""

    kind: str
    dtype: str
    mindspore_version: str

    def numerics(self) -> dict[str, str]:
        """What can change the last bit of a result; recorded with every dataset."""
        return {"device": self.kind, "dtype": self.dtype, "mindspore": self.mindspore_version}


def setup_device(device: str = "auto", dtype: str | None = None) -> Device:
    """Points MindSpore at a device. Idempotent; `auto` takes an NPU if there is one, else the CPU.

    dtype defaults to float32 on both devices: codes are compared bit by bit, and half precision moves them.
    Raises DeviceError if the device is not there, or the CPU is asked for half precision, which it computes
    many times slower where it can at all.
    """
    os.environ.setdefault("GLOG_v", "3")
    import mindspore as ms

    if device not in DEVICES:
        raise DeviceError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    dtype = dtype or "float32"
    kind = _available_kind(device)
    if kind == "CPU" and dtype != "float32":
        raise DeviceError(f"dtype {dtype} on CPU: expected float32; half precision needs --device ascend")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise DeviceError(f"dtype {dtype!r}: expected float32, float16 or bfloat16")
    ms.set_device(kind)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if kind == "CPU":
        ms.runtime.launch_blocking()
    return Device(kind, dtype, ms.__version__)


def _available_kind(device: str) -> str:
    import mindspore as ms

    has_npu = "Ascend" in ms.hal.get_available_devices() if hasattr(ms.hal, "get_available_devices") else False
    if not has_npu:
        try:
            has_npu = bool(ms.device_context.ascend.is_available())
        except (AttributeError, RuntimeError, ValueError):
            has_npu = False
    if device == "ascend" and not has_npu:
        raise DeviceError("device ascend: no NPU found; check npu-smi and CANN, or take --device cpu")
    return "Ascend" if has_npu and device != "cpu" else "CPU"
