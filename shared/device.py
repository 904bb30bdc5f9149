"""Selects the device that MindSpore runs on and sets it up.

Devices differ in their default dtype, fused attention, one collective operator, and how kernels are launched.
None of the Ascend settings has run on an NPU yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shared.errors import DeviceError

DEVICES = ("auto", "cpu", "ascend")
DTYPES = ("float32", "float16", "bfloat16")
KERNELS = ("auto", "plain")


@dataclass(frozen=True, slots=True)
class Device:
    """A device after set-up. `kind` is CPU or Ascend; `dtype` is float32, float16 or bfloat16.

    `kernels` names the module of kernels that models are built with: cpu or ascend. The former run on Ascend too.
    """

    kind: str
    dtype: str
    mindspore_version: str
    kernels: str = "cpu"

    @property
    def has_fused_attention(self) -> bool:
        """Whether `ops.flash_attention_score` can be used: on Ascend, in half precision only."""
        return self.kind == "Ascend" and self.dtype != "float32"

    @property
    def has_reduce_scatter(self) -> bool:
        """Whether `ops.ReduceScatter` exists."""
        return self.kind == "Ascend"

    def numerics(self) -> dict[str, str]:
        """Return the settings that can change the last bit of a result; every dataset records them."""
        return {"device": self.kind, "dtype": self.dtype, "mindspore": self.mindspore_version}


def setup_device(
    device: str = "auto", dtype: str | None = None, ascend_dtype: str = "float32", kernels: str = "auto"
) -> Device:
    """Set MindSpore up for a device. Idempotent; `auto` selects an NPU if there is one, otherwise the CPU.

    dtype defaults to float32 on CPU and to `ascend_dtype` on Ascend: float32 for the vision tokenizer, whose codes
    are compared bit by bit and change with half precision; bfloat16 for the language model. `kernels` is auto, or plain
    for the CPU's kernels also on Ascend.
    Raises DeviceError if the device is missing, or for half precision on CPU, which computes it many times slower
    or not at all.
    """
    import mindspore as ms

    if device not in DEVICES:
        raise DeviceError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    if (dtype or "float32") not in DTYPES:
        raise DeviceError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    if kernels not in KERNELS:
        raise DeviceError(f"kernels {kernels!r}: expected one of {', '.join(KERNELS)}")
    has_npu = ms.device_context.ascend.is_available()
    if device == "ascend" and not has_npu:
        raise DeviceError("device ascend: no NPU found; check npu-smi and CANN, or use --device cpu")
    kind = "Ascend" if has_npu and device != "cpu" else "CPU"
    dtype_there = dtype or (ascend_dtype if kind == "Ascend" else "float32")
    chosen = Device(kind, dtype_there, ms.__version__, "cpu" if kernels == "plain" else kind.lower())
    if chosen.kind == "CPU" and chosen.dtype != "float32":
        raise DeviceError(f"dtype {dtype} on CPU: expected float32; half precision needs --device ascend")
    if chosen.kind == "CPU":
        # Otherwise the thread that waits for a result spins, and takes CPU time from the kernels it waits for.
        os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    _set_device(chosen.kind)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if chosen.kind == "CPU":
        ms.runtime.launch_blocking()  # asynchronous launch takes up to 4 ms per small operator on two cores
    else:
        ms.set_deterministic(True)  # fixes the order of sums, so that equal runs give equal bytes
        ms.device_context.ascend.op_precision.conv_allow_hf32(False)  # codes are compared bit by bit
        ms.device_context.ascend.op_precision.matmul_allow_hf32(False)
    return chosen


def _set_device(kind: str) -> None:
    """Select the device. Raises DeviceError if this process has already computed on another one."""
    import mindspore as ms

    before = ms.get_context("device_target")
    try:
        ms.set_device(kind)
    except RuntimeError as error:
        if before != kind:
            raise DeviceError(
                f"device {kind}: MindSpore already runs on {before} in this process; start a new one"
            ) from error
