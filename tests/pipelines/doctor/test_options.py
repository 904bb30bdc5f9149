"""Options of the doctor."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.doctor.options import DoctorOptions
from shared.errors import UsageError


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_time_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(UsageError, match="--time-limit"):
        DoctorOptions(time_limit_s=limit)


def test_a_report_that_cannot_be_written_is_refused_before_the_checks(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "report.json"):
        with pytest.raises(UsageError, match=r"--json .*: expected a file in a folder that exists"):
            DoctorOptions(report=str(path))
    assert DoctorOptions(report="report.json").report


def test_a_failure_of_a_command_without_commits_gives_no_advice_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("pipelines.doctor.runner.Doctor.__init__", fail)
    assert CliRunner().invoke(main, ["doctor"]).output == "emu3 doctor: no space left\n"
    monkeypatch.setattr("shared.exchange.export.export", fail)
    done = CliRunner().invoke(main, ["export", "codes", "out"])
    assert done.output == "emu3 export: no space left; committed work is kept, run the same command again\n"
