"""Single kernels: all cases at a small width, with the kernels for CPU and with wrong ones."""

from __future__ import annotations

import inspect
import re
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lm_stage.model import kernels as language
from pipelines.doctor import kernel_checks, language_kernels, vision_kernels
from pipelines.doctor.check import Setting, Verdict
from pipelines.doctor.isolated import Broken, Returned
from pipelines.doctor.kernel_case import Case, Sizes, case_error
from pipelines.doctor.kernel_checks import KernelCheck, compute_case, compute_reference, judge, kernels_of
from shared.device import Device, setup_device
from tests.support import ascend_operators, ascend_vision_operators
from vq_stage.model import kernels as vision

SMALL = Sizes(64, 4, 2, 16, 96, 128, 64, 32, 32, 256, 8)


class CallHere:
    """A reference that this process computes."""

    def __init__(self, function: Any, *arguments: Any):
        self.value = function(*arguments)

    def __enter__(self) -> CallHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def outcome(self, limit_s: float) -> Returned:
        return Returned(self.value, 0, 0)


def test_a_reference_takes_at_most_half_of_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the check would be killed before it can say that the reference hangs."""
    limits: list[float] = []
    monkeypatch.setattr(kernel_checks, "IsolatedCall", CallHere)
    monkeypatch.setattr(CallHere, "outcome", lambda self, limit_s: limits.append(limit_s) or Broken("no result"))
    KernelCheck("language", language_kernels.linear, SMALL).run(Setting("cpu", limit_s=50.0), "")
    assert limits == [25.0]


@pytest.mark.parametrize(("stage", "case"), [("vision", vision_kernels.lookup), ("language", language_kernels.linear)])
def test_the_kernels_for_cpu_agree_with_themselves(monkeypatch: pytest.MonkeyPatch, stage: str, case: Case) -> None:
    monkeypatch.setattr(kernel_checks, "IsolatedCall", CallHere)
    finding = KernelCheck(stage, case, SMALL).run(Setting("cpu"), "")
    assert (finding.verdict, finding.measured) == (Verdict.PASSED, {"error_float32": 0.0})


CASES = [
    pytest.param(stage, case, id=f"{stage}-{name}")
    for stage, cases in (("vision", vision_kernels.CASES), ("language", language_kernels.CASES))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("stage", "case"), CASES)
def test_the_kernels_for_ascend_agree_by_their_documented_operators(
    monkeypatch: pytest.MonkeyPatch, stage: str, case: Case
) -> None:
    setup_device("cpu")
    expected = compute_reference(stage, case, SMALL)
    ascend_vision_operators.substitute_operators(monkeypatch)
    ascend_operators.substitute(monkeypatch)
    found = compute_case(case, kernels_of(stage, Device("Ascend", "float32", "", "ascend")), "float32", SMALL)
    finding = judge({"float32": case_error(found, expected)})
    assert finding.verdict is Verdict.PASSED, finding.reason


@pytest.mark.parametrize(
    ("cases", "kernels", "exempt"),
    [
        (vision_kernels, vision.Kernels, set()),
        (language_kernels, language.Kernels, {"cache_lengths"}),  # which returns integers of the host
    ],
)
def test_every_kernel_is_part_of_a_case(cases: ModuleType, kernels: type, exempt: set[str]) -> None:
    names = {name for name in vars(kernels) if not name.startswith("_")}
    assert len(names) > 5
    assert names - set(re.findall(r"kernels\.(\w+)", inspect.getsource(cases))) == exempt


def wrong(function: Any) -> Any:
    """Return a kernel whose results are 1 % too large."""
    return lambda *arguments: function(*arguments) * 1.01


def test_a_wrong_kernel_is_found() -> None:
    from lm_stage.model.kernels import cpu

    setup_device("cpu")
    kernels = SimpleNamespace(linear=wrong(cpu.linear))
    results = compute_case(language_kernels.linear, kernels, "float32", SMALL)
    error = case_error(results, compute_reference("language", language_kernels.linear, SMALL))
    finding = judge({"float32": error, "bfloat16": 0.0})
    assert finding.verdict is Verdict.FAILED
    assert finding.next_step.startswith("this kernel is wrong in float32; use --kernels plain")


def test_a_wrong_update_is_found() -> None:
    from lm_stage.model.kernels import cpu

    setup_device("cpu")
    kernels = SimpleNamespace(AdamWUpdate=lambda beta1, beta2: cpu.AdamWUpdate(beta2, beta1))
    found, wanted = (compute_case(language_kernels.adamw_update, k, "float32", SMALL) for k in (kernels, cpu))
    assert case_error(found, wanted) > 0.01


def test_a_reference_that_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_checks, "IsolatedCall", CallHere)
    monkeypatch.setattr(CallHere, "outcome", lambda self, limit_s: Broken("the process died (SIGKILL)"))
    finding = KernelCheck("language", language_kernels.swiglu, SMALL).run(Setting("cpu"), "")
    assert finding.verdict is Verdict.FAILED
    assert finding.reason == "the reference on the CPU could not be computed: the process died (SIGKILL)"


def test_integers_are_compared_by_the_share_of_unequal_ones() -> None:
    found, wanted = [np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])]
    assert case_error(found, wanted) == 0.25
    assert case_error(found, []) == float("inf")
