"""Environment variables that MindSpore and its libraries read once, when they are first imported.

Importing `shared` sets those that the user has not set, so that every process of a job has them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from importlib import metadata

SLOW_CONVOLUTION_SINCE = (2, 9)
X86 = ("x86_64", "AMD64")

DEFAULTS = {
    "GLOG_v": "3",  # log errors only
    # Without it, CANN may shift the sums of a product, so that a row's last bits depend on its position in a batch.
    "CLOSE_MATMUL_K_SHIFT": "1",
}
# The oneDNN of MindSpore 2.9 and later selects a reference convolution on CPUs with AVX-512, which takes 100 times as
# long; limited to AVX2 it selects a fast one.
ONEDNN_LIMIT, ONEDNN_ISA = "ONEDNN_MAX_CPU_ISA", "AVX2"


def prepare_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that the user has not set."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    if ONEDNN_LIMIT not in environment and needs_onednn_limit(mindspore_version(), platform.machine()):
        environment[ONEDNN_LIMIT] = ONEDNN_ISA


def needs_onednn_limit(version: str, machine: str) -> bool:
    """Return whether this version of MindSpore computes convolutions slowly on this kind of CPU."""
    major_minor = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return machine in X86 and major_minor >= SLOW_CONVOLUTION_SINCE


def mindspore_version() -> str:
    """Return the version of the installed MindSpore without importing it, an empty string if there is none."""
    try:
        return metadata.version("mindspore")
    except metadata.PackageNotFoundError:
        return ""
