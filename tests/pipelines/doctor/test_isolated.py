"""Calls in processes of their own: values, exceptions, crashes and hangs."""

from __future__ import annotations

import time

import pytest

from pipelines.doctor.check import Setting, Verdict
from pipelines.doctor.isolated import Broken, IsolatedCall, Returned, call_isolated, describe_exit
from tests.support import doctor_checks

ARGUMENTS = Setting("cpu"), "float32"


def test_a_value_comes_back_with_the_peak_memory() -> None:
    outcome = call_isolated(doctor_checks.passing, *ARGUMENTS, limit_s=240)
    assert isinstance(outcome, Returned)
    assert outcome.value.verdict is Verdict.PASSED
    assert 1 << 20 < outcome.peak_host_bytes < 1 << 32
    assert outcome.peak_device_bytes == 0


def test_a_crash_is_named_by_its_signal_and_what_was_printed_is_kept() -> None:
    outcome = call_isolated(doctor_checks.crashing, *ARGUMENTS, limit_s=240)
    assert isinstance(outcome, Broken)
    assert outcome.problem == "the process died (signal 11: Segmentation fault)"
    assert "an operator failed" in outcome.log


def test_an_exception_is_its_first_line_with_words_and_its_traceback() -> None:
    outcome = call_isolated(doctor_checks.raising, *ARGUMENTS, limit_s=240)
    assert isinstance(outcome, Broken)
    assert outcome.problem == "RuntimeError: The operator has no kernel."
    assert "Traceback" in outcome.log


def test_a_process_that_hangs_is_killed() -> None:
    with IsolatedCall(time.sleep, 600) as call:
        outcome = call.outcome(0.1)
    assert isinstance(outcome, Broken)
    assert outcome.problem == "no result within 0.1 s: the process hung and was killed"
    assert call.process.exitcode == -9


@pytest.mark.parametrize(
    ("code", "text"), [(-11, "signal 11: Segmentation fault"), (3, "exit code 3"), (None, "it does not end")]
)
def test_exit_codes_as_text(code: int | None, text: str) -> None:
    assert describe_exit(code) == text
