"""Selects the device that MindSpore runs on and sets it up.

Devices differ in their default dtype, one collective operator, and how kernels are launched.
None of the Ascend settings has run on an NPU yet.
"""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from typing import Any

from shared.environment import ONEDNN_ISA, ONEDNN_LIMIT, needs_onednn_limit
from shared.errors import DeviceError

logger = logging.getLogger(__name__)

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
    def has_reduce_scatter(self) -> bool:
        """Whether `ops.ReduceScatter` exists."""
        return self.kind == "Ascend"

    def numerics(self) -> dict[str, str]:
        """Return the settings that can change the last bit of a result; every dataset records them.

        Kernels other than those of the device are named; datasets of earlier versions do not have that entry.
        """
        recorded = {"device": self.kind, "dtype": self.dtype, "mindspore": self.mindspore_version}
        return recorded if self.kernels == self.kind.lower() else {**recorded, "kernels": "plain"}


def setup_device(
    device: str = "auto",
    dtype: str | None = None,
    ascend_dtype: str = "float32",
    kernels: str = "auto",
    is_deterministic: bool = True,
) -> Device:
    """Set MindSpore up for a device, once in a process; `auto` selects an NPU if there is one, otherwise the CPU.

    dtype defaults to float32 on CPU and to `ascend_dtype` on Ascend: float32 for the vision tokenizer, whose codes
    are compared bit by bit and change with half precision; bfloat16 for the language model. `kernels` is auto, or plain
    for the CPU's kernels also on Ascend. `is_deterministic` fixes the order of sums on Ascend, which takes time.
    Raises DeviceError if the device is missing, if this process is set up for another one, or for half precision on
    CPU, which computes it many times slower or not at all.
    """
    for name, value, values in (("device", device, DEVICES), ("kernels", kernels, KERNELS)):
        if value not in values:
            raise DeviceError(f"{name} {value!r}: expected one of {', '.join(values)}")
    if (dtype or "float32") not in DTYPES:
        raise DeviceError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    kind = _kind(device)
    chosen_dtype = dtype or (ascend_dtype if kind == "Ascend" else "float32")
    if kind == "CPU" and chosen_dtype != "float32":
        raise DeviceError(f"dtype {dtype} on CPU: expected float32; half precision needs --device ascend")
    _set_up_once(kind, is_deterministic)
    import mindspore as ms

    return Device(kind, chosen_dtype, ms.__version__, "cpu" if kernels == "plain" else kind.lower())


def _kind(device: str) -> str:
    """Return CPU or Ascend. Raises DeviceError if an NPU is asked for and there is none."""
    if device == "cpu":
        return "CPU"
    ascend = _ascend()
    # The plug-in loads without an NPU too, on every machine with CANN; MindSpore simulates one if told to.
    if ascend.is_available() and (ascend.device_count() > 0 or "MS_SIMULATION_LEVEL" in os.environ):
        return "Ascend"
    if device == "ascend":
        raise DeviceError("device ascend: no NPU found; check npu-smi and CANN, or use --device cpu")
    return "CPU"


def _ascend() -> Any:
    import mindspore as ms

    return ms.device_context.ascend


_set_up: tuple[str, bool] | None = None  # the kind of device, and whether it is deterministic


def _set_up_once(kind: str, is_deterministic: bool) -> None:
    """Set MindSpore up, or check that it is. MindSpore refuses several of the settings when they are repeated."""
    global _set_up
    wanted = (kind, is_deterministic or kind == "CPU")
    if _set_up == wanted:
        return
    if _set_up is not None:
        raise DeviceError(
            f"device {_described(wanted)}: this process already computes on {_described(_set_up)}; start a new one"
        )
    _set_device(kind)
    if kind == "CPU":
        _set_up_cpu()
    else:
        _set_up_ascend(is_deterministic)
    _set_up = wanted


def _described(settings: tuple[str, bool]) -> str:
    kind, is_deterministic = settings
    return kind if is_deterministic else f"{kind} without determinism"


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
    ms.set_context(mode=ms.PYNATIVE_MODE)


def _set_up_cpu() -> None:
    import mindspore as ms

    # Otherwise the thread that waits for a result spins, and takes CPU time from the kernels it waits for.
    os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    ms.runtime.launch_blocking()  # asynchronous launch takes up to 4 ms per small operator on two cores
    if os.environ.get(ONEDNN_LIMIT) == ONEDNN_ISA and needs_onednn_limit(ms.__version__, platform.machine()):
        logger.warning(
            "MindSpore %s on CPU: oneDNN is limited to %s, because its convolutions are slow with AVX-512;"
            " set %s yourself to choose otherwise",
            *(ms.__version__, ONEDNN_ISA, ONEDNN_LIMIT),
        )


def _set_up_ascend(is_deterministic: bool) -> None:
    import mindspore as ms

    if is_deterministic:
        ms.set_deterministic(True)  # fixes the order of sums, so that equal runs give equal bytes
    precision = ms.device_context.ascend.op_precision
    precision.conv_allow_hf32(False)  # codes are compared bit by bit
    precision.matmul_allow_hf32(False)
