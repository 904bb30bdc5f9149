"""The one place that knows which device MindSpore runs on, and how it is set up there.

What differs by device: the default number type, fused attention, one collective, and how kernels are launched.
Nothing here has run on an NPU yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shared.errors import DeviceError

DEVICES = ("auto", "cpu", "ascend")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that was set up: `kind` is CPU or Ascend, `dtype` float32, float16 or bfloat16."""

    kind: str
    dtype: str
    mindspore_version: str

    @property
    def has_fused_attention(self) -> bool:
        """Whether `ops.flash_attention_score` can be taken: on Ascend, in half precision only."""
        return self.kind == "Ascend" and self.dtype != "float32"

    @property
    def has_reduce_scatter(self) -> bool:
        """Whether `ops.ReduceScatter` is there."""
        return self.kind == "Ascend"

    def numerics(self) -> dict[str, str]:
        """What can change the last bit of a result; recorded with every dataset."""
        return {"device": self.kind, "dtype": self.dtype, "mindspore": self.mindspore_version}


def setup_device(device: str = "auto", dtype: str | None = None, ascend_dtype: str = "float32") -> Device:
    """Points MindSpore at a device. Idempotent; `auto` takes an NPU if there is one, else the CPU.

    dtype defaults to float32 on CPU and to `ascend_dtype` on Ascend: float32 for the vision tokenizer, whose codes
    are compared bit by bit and moved by half precision; bfloat16 for the language model.
    Raises DeviceError if the device is not there, or the CPU is asked for half precision, which it computes
    many times slower where it can at all.
    """
    import mindspore as ms

    if device not in DEVICES:
        raise DeviceError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    if (dtype or "float32") not in DTYPES:
        raise DeviceError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    has_npu = ms.device_context.ascend.is_available()
    if device == "ascend" and not has_npu:
        raise DeviceError("device ascend: no NPU found; check npu-smi and CANN, or take --device cpu")
    kind = "Ascend" if has_npu and device != "cpu" else "CPU"
    chosen = Device(kind, dtype or (ascend_dtype if kind == "Ascend" else "float32"), ms.__version__)
    if chosen.kind == "CPU" and chosen.dtype != "float32":
        raise DeviceError(f"dtype {dtype} on CPU: expected float32; half precision needs --device ascend")
    if chosen.kind == "CPU":
        # Otherwise whoever waits for a result spins, and takes half of a small machine from the kernels it waits for.
        os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    _set_device(chosen.kind)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if chosen.kind == "CPU":
        ms.runtime.launch_blocking()  # asynchronous launch takes up to 4 ms a small operator on two cores
    else:
        ms.set_deterministic(True)  # sums in one order: equal runs give equal bytes
        ms.device_context.ascend.op_precision.conv_allow_hf32(False)  # float32 means float32: codes are compared
        ms.device_context.ascend.op_precision.matmul_allow_hf32(False)
    return chosen


def _set_device(kind: str) -> None:
    """Fails only if something was already computed on another device."""
    import mindspore as ms

    before = ms.get_context("device_target")
    try:
        ms.set_device(kind)
    except RuntimeError as error:
        if before != kind:
            raise DeviceError(f"device {kind}: MindSpore already runs on {before} in this process") from error
