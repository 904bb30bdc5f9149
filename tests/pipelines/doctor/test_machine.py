"""Checks of the machine: versions from files, and what fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.doctor import machine
from pipelines.doctor.check import Setting, Verdict

HERE = Setting("cpu")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Version=8.2.RC1\n", "8.2.RC1"),
        ("package_name=x\nversion=8.3.RC1.alpha001\n", "8.3.RC1.alpha001"),
        ("runtime_running_version=[7.7.0:8.2.RC1]\n", "7.7.0"),
        ("nothing", "missing"),
    ],
)
def test_the_version_of_cann_is_read_from_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, version: str
) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    monkeypatch.setattr(machine, "CANN_HOMES", ())
    (tmp_path / "version.cfg").write_text(text)
    assert machine.cann_version() == version


def test_versions_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = machine.check_versions(HERE, "")
    assert finding.verdict is Verdict.PASSED
    assert {"python", "mindspore", "mindone", "numpy", "package", "cann", "driver", "npu-smi"} <= set(finding.facts)
    monkeypatch.setattr(machine, "_package_version", lambda package: "missing")
    assert machine.check_versions(HERE, "").next_step == "install mindspore 2.7.1 or later"


def test_ascend_needs_cann(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cann_version", lambda: "missing")
    finding = machine.check_versions(Setting("ascend"), "")
    assert (finding.verdict, "set_env.sh" in finding.next_step) == (Verdict.FAILED, True)


def test_npu_smi_may_be_missing_fail_or_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.npu_smi() == "not installed"
    program = tmp_path / "npu-smi"
    program.write_text("#!/bin/sh\necho 910B2 $1\n")
    program.chmod(0o755)
    assert machine.npu_smi() == "910B2 info\n"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(machine, "NPU_SMI_LIMIT_S", 0.1)
    assert "cannot be run" in machine.npu_smi()


def test_too_little_memory_or_disk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_disk(HERE, "").measured["total_bytes"] > 0
    assert machine.check_memory(HERE, "").measured["total_bytes"] > 0
    monkeypatch.setattr(machine, "MIN_HOST_BYTES", 1 << 60)
    monkeypatch.setattr(machine, "MIN_DISK_BYTES", 1 << 60)
    for check in (machine.check_disk, machine.check_memory):
        finding = check(HERE, "")
        assert finding.verdict is Verdict.FAILED
        assert finding.next_step


def test_processors_are_counted() -> None:
    assert machine.check_processors(HERE, "").measured["usable"] >= 1
