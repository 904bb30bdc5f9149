"""The table of checks; how it is selected from is tested with the runner."""

from __future__ import annotations

from pipelines.doctor.checks import check_table


def test_every_check_of_the_device_runs_in_the_groups_of_the_help() -> None:
    groups = {check.group for check in check_table("mindone").device}
    assert groups == {"vision", "language", "training", "kernels", "mindone"}
