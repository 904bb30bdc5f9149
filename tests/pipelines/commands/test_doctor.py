"""The whole command on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command import emu3


def test_the_doctor_passes_on_this_machine(tmp_path: Path) -> None:
    report = tmp_path / "doctor.json"
    only = ("--only", "machine", "--only", "canary", "--only", "language-kernel-rotate", "--only", "mindone-codes")
    done = emu3("doctor", "--device", "cpu", "--compare", "mindone", *only, "--json", report)
    *lines, memory, verdict = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["passed", "versions"],
        ["passed", "memory"],
        ["passed", "disk"],
        ["passed", "processors"],
        ["passed", "device"],
        ["passed", "canary"],
        ["skipped", "language-kernel-rotate"],
        ["skipped", "mindone-codes"],
    ]
    assert memory.startswith("peak memory of a check: ")
    assert verdict == "passed: 6 passed, 0 failed, 2 skipped"
    content = json.loads(report.read_text(encoding="utf-8"))
    canary = next(one for one in content["results"] if one["check"] == "canary")
    assert (content["passed"], canary["dtype"], canary["measured"]["equal_share"]) == (True, "float32", 1.0)
    assert canary["measured"]["peak_host_bytes"] > 50 << 20


def test_a_failed_check_exits_with_1_and_bad_usage_with_2() -> None:
    done = emu3("doctor", "--device", "ascend", "--only", "canary", "--time-limit", "200", exit_code=1)
    assert "no NPU found" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAILED: 0 passed, 1 failed, 1 skipped (device)"
    assert "expected a check or a group of checks" in emu3("doctor", "--only", "heart", exit_code=2).stderr
