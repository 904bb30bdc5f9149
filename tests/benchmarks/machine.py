"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mindspore", "torch", "transformers", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware, the versions of what was compared, and how busy the machine was.

    `loads` are the numbers of processes that wanted to run, over the minute before the start and that before the end.
    """

    cpu: str
    cores: int
    has_avx512: bool
    memory_gib: float
    python: str
    versions: dict[str, str]
    commit: str
    loads: list[float]

    def sentence(self) -> str:
        """Return a description in one sentence."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"Measured on {self.cpu} ({self.cores} cores, {'with' if self.has_avx512 else 'without'} AVX-512,"
            f" {self.memory_gib:.0f} GiB) with Python {self.python}, {packages}; the load of the machine was"
            f" {self.loads[0]:.1f} before the start and {self.loads[1]:.1f} at the end."
        )


def this_machine(load_at_start: float) -> Machine:
    """Describe this machine; what cannot be found out is `unknown`."""
    flags = _cpu_info("flags").split()
    return Machine(
        cpu=_cpu_info("model name") or platform.processor() or "unknown",
        cores=os.cpu_count() or 1,
        has_avx512="avx512f" in flags,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30),
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        commit=_commit(),
        loads=[load_at_start, os.getloadavg()[0]],
    )


def _cpu_info(name: str) -> str:
    """Return a field of the first processor, empty if the system does not tell."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
