"""The device check and the quiet import with which both stages load a model of the mindone library.

mindone's Emu3 is a second opinion for owners of an NPU: `--backend mindone` runs it behind the interface of our own
models. Neither mindone nor MindSpore is imported here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from shared.device import Device
from shared.errors import DeviceError


def refuse_cpu(device: Device, missing_kernels: str) -> None:
    """Raise DeviceError if the device is a CPU; `missing_kernels` names what mindone needs and CPU lacks."""
    if device.kind == "CPU":
        raise DeviceError(
            f"backend mindone on CPU: mindone's Emu3 uses mindspore.mint, whose kernels ({missing_kernels}) are not"
            " registered on CPU; use --backend native, or run on an NPU"
        )


@contextlib.contextmanager
def importing_mindone() -> Iterator[None]:
    """Send what mindone prints on import to stderr. Raises DeviceError if an import inside the block fails."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ImportError as error:
        raise DeviceError(
            f"backend mindone: cannot be imported: {error}; run pip install 'emu3-relay[mindone]', or use"
            " --backend native"
        ) from error
