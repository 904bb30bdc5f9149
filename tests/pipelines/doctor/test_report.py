"""The results as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.doctor.check import Finding, Result, Verdict
from pipelines.doctor.options import DoctorOptions
from pipelines.doctor.report import has_failed, last_lines, line, write_report
from tests.support.doctor_checks import NPU

PASSED = Result("canary", "float16", Finding(Verdict.PASSED, "64 of 64", measured={"peak_host_bytes": 3 << 29}), 1.26)
FAILED = Result("rotate", "", Finding(Verdict.FAILED, "wrong", "use another", {"error": float("inf")}), 0.0, "a log")
SKIPPED = Result("swiglu", "", Finding(Verdict.SKIPPED, "no NPU"), 0.0)


def test_a_line_has_the_verdict_the_reason_and_the_next_step() -> None:
    assert line(PASSED).split() == ["passed", "canary", "float16", "64", "of", "64", "(1.3", "s)"]
    assert line(FAILED).splitlines()[1] == "        next: use another"


def test_the_last_lines_have_the_peak_memory_and_name_what_failed() -> None:
    memory, verdict = last_lines([PASSED, FAILED, SKIPPED])
    assert memory == "peak memory of a check: 1.50 GiB on the host, 0.00 GiB on the device"
    assert verdict == "FAILED: 1 passed, 1 failed, 1 skipped (rotate)"
    assert last_lines([PASSED, SKIPPED])[1] == "passed: 1 passed, 0 failed, 1 skipped"
    assert has_failed([PASSED, FAILED])
    assert not has_failed([PASSED, SKIPPED])


def test_the_file_has_everything_for_a_bug_report_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    path = tmp_path / "doctor.json"
    write_report(str(path), DoctorOptions(device="ascend"), [PASSED, FAILED], NPU)
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert "hidden" not in text
    assert content["format"] == "emu3.doctor/1"
    assert content["passed"] is False
    assert content["options"]["device"] == "ascend"
    assert content["device"]["name"] == "Ascend910B2"
    assert content["environment"]["OMP_NUM_THREADS"] == "3"
    assert content["results"][0]["measured"] == {"peak_host_bytes": 3 << 29}
    assert content["results"][1] == {
        "check": "rotate",
        "dtype": "",
        "verdict": "failed",
        "reason": "wrong",
        "next_step": "use another",
        "measured": {"error": None},
        "facts": {},
        "elapsed_s": 0.0,
        "log": "a log",
    }
