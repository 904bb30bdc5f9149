"""The device of the checks."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import pytest

from pipelines.doctor.check import Verdict
from pipelines.doctor.devices import DeviceFacts, judge_device, probe_device
from pipelines.doctor.isolated import Returned
from tests.support.fake_ascend import install_fake_ascend


def test_the_cpu_offers_float32_only() -> None:
    facts = probe_device("cpu", "auto")
    assert (facts.kind, facts.dtypes) == ("CPU", ("float32",))
    assert judge_device(Returned(facts, 0, 0)).reason == "the CPU; no NPU is used"


def test_an_npu_is_described_by_its_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_ascend(monkeypatch, devices=8)
    properties = SimpleNamespace(name="Ascend910B2", total_memory=64 << 30, free_memory=3 << 30)
    monkeypatch.setattr(ms.hal, "get_device_properties", lambda number, kind: properties)
    facts = probe_device("auto", "auto")
    assert facts == DeviceFacts("Ascend", 8, "Ascend910B2", 64 << 30, 3 << 30)
    assert facts.dtypes == ("float32", "float16", "bfloat16")
    finding = judge_device(Returned(facts, 0, 0))
    assert (finding.verdict, "end the other programs" in finding.next_step) == (Verdict.FAILED, True)
