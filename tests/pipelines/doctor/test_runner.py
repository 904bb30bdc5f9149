"""Which checks run, in which number types, and what a broken process or a missing device leads to."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.doctor.check import Check, Finding, Result, Setting, Verdict
from pipelines.doctor.checks import CheckTable, check_table
from pipelines.doctor.isolated import Broken, call_isolated
from pipelines.doctor.options import DoctorOptions
from pipelines.doctor.runner import Doctor
from shared.errors import UsageError
from tests.support.doctor_checks import CPU, NPU, call_here, calls_on, check, crashing, hanging, passing, raising
from tests.support.fake_ascend import install_fake_ascend


def results_of(*checks: Check, call: Any, machine: tuple[Check, ...] = (), **options: Any) -> list[Result]:
    return list(Doctor(DoctorOptions(**options), CheckTable(machine, checks), call).run(lambda name, left: None))


def test_an_npu_is_checked_in_every_number_type() -> None:
    device, *results = results_of(check(passing), call=calls_on(NPU))
    assert device.finding.reason == "2 × Ascend910B2; 60.0 of 64.0 GiB are free on the first"
    assert [(one.dtype, one.finding.reason) for one in results] == [
        ("float32", "ascend float32"),
        ("float16", "ascend float16"),
        ("bfloat16", "ascend bfloat16"),
    ]
    assert results[0].finding.measured == {"images_per_s": 2.5, "peak_host_bytes": 1 << 30, "peak_device_bytes": 0}


def test_a_check_may_take_all_number_types_or_some() -> None:
    checks = check(passing, takes_all_dtypes=True), check(passing, only_dtypes=("float32",))
    _, *results = results_of(*checks, call=calls_on(NPU))
    assert [one.dtype for one in results] == ["", "float32"]


def test_a_cpu_is_checked_in_float32_and_skips_what_needs_an_npu() -> None:
    _, first, second = results_of(check(passing), check(raising, needs_npu="needs an NPU"), call=calls_on(CPU))
    assert (first.dtype, first.finding.verdict) == ("float32", Verdict.PASSED)
    assert (second.finding.verdict, second.finding.reason) == (Verdict.SKIPPED, "needs an NPU")


def test_a_crash_and_a_hang_are_one_failed_check_each() -> None:
    def call(function: Any, *arguments: Any, limit_s: float) -> Any:
        return (calls_on(CPU) if function.__name__ == "probe_device" else call_isolated)(
            function, *arguments, limit_s=1 if function is hanging else 240
        )

    _, *results = results_of(check(crashing), check(hanging), check(passing), call=call)
    assert [one.finding.verdict for one in results] == [Verdict.FAILED, Verdict.FAILED, Verdict.PASSED]
    assert results[0].finding.reason == "the process died (signal 11: Segmentation fault)"
    assert "an operator failed" in results[0].log
    assert "hung and was killed" in results[1].finding.reason
    assert all("--kernels plain" in one.finding.next_step for one in results[:2])


def test_a_missing_device_fails_and_skips_the_checks_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_ascend(monkeypatch, devices=0)
    device, result = results_of(check(passing), call=call_here, device="ascend")
    assert (device.finding.verdict, result.finding.verdict) == (Verdict.FAILED, Verdict.SKIPPED)
    assert "no NPU found" in device.finding.reason
    assert "npu-smi" in device.finding.next_step


def test_a_device_that_hangs_is_killed_within_the_time_limit() -> None:
    limits: list[float] = []

    def call(function: Any, *arguments: Any, limit_s: float) -> Broken:
        limits.append(limit_s)
        return Broken("no result")

    device, result = results_of(check(passing), call=call, time_limit_s=7)
    assert (device.finding.verdict, result.finding.reason) == (Verdict.FAILED, "the device cannot be used")
    assert limits == [7]


def test_the_machine_is_checked_here_and_an_error_of_the_system_is_a_failure() -> None:
    def unreadable(setting: Setting, dtype: str) -> Finding:
        raise PermissionError("no permission")

    result, _ = results_of(call=calls_on(CPU), machine=(check(unreadable),))
    assert (result.finding.verdict, result.finding.reason) == (Verdict.FAILED, "no permission")


def test_the_number_of_checks_that_are_left_counts_down_to_one() -> None:
    seen: list[int] = []
    table = CheckTable((check(passing),), (check(passing), check(raising, needs_npu="needs an NPU")))
    list(Doctor(DoctorOptions(), table, calls_on(CPU)).run(lambda name, left: seen.append(left)))
    assert seen == [4, 3, 2, 1]


def test_checks_are_selected_by_name_group_or_pattern() -> None:
    table = check_table("mindone")
    assert [one.name for one in table.select(["canary"]).device] == ["canary"]
    assert not table.select(["machine"]).device
    assert len(table.select(["vision-kernel-*"]).device) > 5
    assert len(table.select([]).device) == len(check_table(None).device) + 2
    with pytest.raises(UsageError, match=r"--only canaries: expected a check or a group .*kernels.*canary"):
        table.select(["canary", "canaries"])


def test_names_of_checks_are_unique() -> None:
    table = check_table("mindone")
    names = [one.name for one in (*table.machine, *table.device)]
    assert len(names) == len(set(names))
