"""The implementations of the models, and what concerns mindone's in both stages: which settings it refuses, its import.

mindone's Emu3 is an independent reference implementation: `--backend mindone` runs it behind the interfaces of our own
models. Neither mindone nor MindSpore is imported here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from shared.errors import DeviceError, UsageError

BACKENDS = ("native", "mindone")


def check_backend(backend: str, device: str, kernels: str = "auto") -> None:
    """Check a backend before anything is planned or loaded; `device` is that of the options, or a Device's kind.

    Raises UsageError for an unknown backend and for a choice of kernels with mindone, DeviceError for mindone on a CPU.
    """
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "mindone" and device.lower() == "cpu":
        raise DeviceError(
            "--backend mindone on a CPU: mindone's Emu3 uses mindspore.mint, whose kernels (Arange, Embedding,"
            " Conv2DExt and others) are not registered on CPU; use --backend native, or run on an NPU"
        )
    if backend == "mindone" and kernels != "auto":
        raise UsageError(
            f"--kernels {kernels} with --backend mindone: mindone's models have their own kernels; omit --kernels"
        )


def check_vision_backend(backend: str, device: str, dtype: str | None, kernels: str = "auto") -> None:
    """Check a backend of the vision tokenizer as `check_backend` does; raises UsageError for mindone in half precision.

    Everything in it would be computed in that type, the distances to the codebook too, so other codes would be nearest.
    """
    check_backend(backend, device, kernels)
    if backend == "mindone" and dtype not in (None, "float32"):
        raise UsageError(
            f"--dtype {dtype} with --backend mindone: expected float32, because mindone would also compare with the"
            " codebook in half precision, and other codes would be the nearest; omit --dtype"
        )


@contextlib.contextmanager
def importing_mindone() -> Iterator[None]:
    """Send what mindone prints on import to stderr. Raises DeviceError if an import inside the block fails."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ImportError as error:
        raise DeviceError(
            f"--backend mindone: cannot be imported: {error}; run pip check and install what is missing, or use"
            " --backend native"
        ) from error
