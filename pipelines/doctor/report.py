"""The results as lines of text and as one JSON file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.doctor.check import Result, Verdict
from pipelines.doctor.devices import DeviceFacts
from pipelines.doctor.machine import GIBIBYTE
from pipelines.doctor.options import DoctorOptions
from shared.storage.atomic import write_file

FORMAT = "emu3.doctor/1"
NAME_WIDTH = 40
# Variables that change what MindSpore and CANN compute, or on which device; no other variable is reported.
VARIABLES = (
    *("ASCEND_HOME_PATH", "ASCEND_RT_VISIBLE_DEVICES", "ASCEND_LAUNCH_BLOCKING", "CLOSE_MATMUL_K_SHIFT", "DEVICE_ID"),
    *("GLOG_v", "HCCL_DETERMINISTIC", "MS_ENABLE_LCCL", "MS_DEV_HOST_BLOCKING_RUN", "MS_SIMULATION_LEVEL"),
    *("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "RANK_ID", "RANK_SIZE"),
)


def line(result: Result) -> str:
    """Return the verdict, the check with its number type, the reason and, after a failure, the next step."""
    name, finding = f"{result.name} {result.dtype}".strip(), result.finding
    step = f"\n        next: {finding.next_step}" if finding.next_step else ""
    return f"{finding.verdict.value:<8}{name:<{NAME_WIDTH}}{finding.reason} ({result.elapsed_s:.1f} s){step}"


def last_lines(results: Sequence[Result]) -> list[str]:
    """Return the peak memory of all processes and the counts of verdicts."""
    host, device = (_peak(results, name) for name in ("peak_host_bytes", "peak_device_bytes"))
    counts = Counter(result.finding.verdict for result in results)
    names = sorted({result.name for result in results if result.finding.verdict is Verdict.FAILED})
    verdict = f"{'FAILED' if names else 'passed'}: " + ", ".join(f"{counts[one]} {one.value}" for one in Verdict)
    failed = f" ({', '.join(names)})" if names else ""
    return [f"peak memory of a check: {host:.2f} GiB on the host, {device:.2f} GiB on the device", verdict + failed]


def has_failed(results: Sequence[Result]) -> bool:
    return any(result.finding.verdict is Verdict.FAILED for result in results)


def _peak(results: Sequence[Result], name: str) -> float:
    return max((result.finding.measured.get(name, 0) for result in results), default=0) / GIBIBYTE


def write_report(path: str, options: DoctorOptions, results: Sequence[Result], device: DeviceFacts | None) -> None:
    """Write everything that a bug report needs."""
    content = {
        "format": FORMAT,
        "passed": not has_failed(results),
        "options": {name: value for name, value in asdict(options).items() if name != "report"},
        "device": asdict(device) if device else None,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "results": [_entry(result) for result in results],
    }
    write_file(Path(path), (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _entry(result: Result) -> dict[str, Any]:
    finding = asdict(result.finding)
    # JSON has no infinity, which is the error of a result that is not finite.
    finding["measured"] = {
        name: value if abs(value) < float("inf") else None for name, value in finding["measured"].items()
    }
    return {
        "check": result.name,
        "dtype": result.dtype,
        **finding,
        "elapsed_s": round(result.elapsed_s, 3),
        "log": result.log,
    }
