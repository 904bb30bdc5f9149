"""Checks of the machine: versions, memory, disk and processors. None of them imports MindSpore."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from pipelines.doctor.check import Finding, Setting, Verdict

GIBIBYTE = 1 << 30
MIN_HOST_BYTES, MIN_DISK_BYTES = 2 * GIBIBYTE, GIBIBYTE
OLDEST_MINDSPORE = (2, 7, 1)
NPU_SMI_LIMIT_S = 30.0
NPU_SMI_CHARACTERS = 6000
PACKAGES = {"mindspore": "mindspore", "package": "emu3-relay", "mindone": "mindone", "numpy": "numpy"}
CANN_HOMES = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")
CANN_VERSION_FILES = ("compiler/version.info", "version.cfg", "version.info")
DRIVER_VERSION_FILE = Path("/usr/local/Ascend/driver/version.info")


def check_versions(setting: Setting, dtype: str) -> Finding:
    """List the versions of all parts. Fails without MindSpore, and on Ascend without CANN."""
    versions = {"python": platform.python_version()}
    versions |= {name: _package_version(package) for name, package in PACKAGES.items()}
    versions |= {"cann": cann_version(), "driver": _version_in(DRIVER_VERSION_FILE) or "missing"}
    facts = {**versions, "platform": platform.platform(), "npu-smi": npu_smi()}
    reason = ", ".join(f"{name} {version}" for name, version in versions.items())
    if _numbers(versions["mindspore"]) < OLDEST_MINDSPORE:
        return Finding(Verdict.FAILED, reason, "install mindspore 2.7.1 or later", facts=facts)
    if setting.device == "ascend" and versions["cann"] == "missing":
        step = "install CANN and source its set_env.sh, which sets ASCEND_HOME_PATH"
        return Finding(Verdict.FAILED, reason, step, facts=facts)
    return Finding(Verdict.PASSED, reason, facts=facts)


def _package_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def cann_version() -> str:
    """Return the version of CANN from its files, `missing` if there is none."""
    for home in (os.environ.get("ASCEND_HOME_PATH"), *CANN_HOMES):
        for name in CANN_VERSION_FILES if home else ():
            if version := _version_in(Path(home or "", name)):
                return version
    return "missing"


def _version_in(path: Path) -> str:
    """Return the first version in a file of lines such as `Version=8.2.RC1`, an empty string if there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"version[^=\n]*=\s*\[?[^\d\n]*([\w.]+)", text, re.IGNORECASE)
    return found[1] if found else ""


def npu_smi() -> str:
    """Return what `npu-smi info` prints, or why it cannot."""
    program = shutil.which("npu-smi")
    if program is None:
        return "not installed"
    try:
        done = subprocess.run(
            [program, "info"], capture_output=True, text=True, errors="replace", timeout=NPU_SMI_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    return (done.stdout + done.stderr)[:NPU_SMI_CHARACTERS]


def check_memory(setting: Setting, dtype: str) -> Finding:
    """Fails with less than 2 GiB of free memory."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError as error:
        return Finding(Verdict.SKIPPED, f"the free memory cannot be read: {error}")
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    free, total = sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)
    reason = f"{_gib(free)} of {_gib(total)} are free"
    measured = {"free_bytes": free, "total_bytes": total}
    return Finding.of(free >= MIN_HOST_BYTES, reason, "end other programs; expected at least 2 GiB", measured)


def check_disk(setting: Setting, dtype: str) -> Finding:
    """Fails with less than 1 GiB of free disk in the working folder."""
    usage = shutil.disk_usage(Path.cwd())
    reason = f"{_gib(usage.free)} of {_gib(usage.total)} are free in the working folder"
    measured = {"free_bytes": usage.free, "total_bytes": usage.total}
    return Finding.of(usage.free >= MIN_DISK_BYTES, reason, "free at least 1 GiB, or work in another folder", measured)


def check_processors(setting: Setting, dtype: str) -> Finding:
    """Count the processors that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    reason = f"{usable} of {os.cpu_count()} processors ({platform.machine()}) can be used"
    return Finding(Verdict.PASSED, reason, measured={"usable": usable})


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIBIBYTE:.1f} GiB"
