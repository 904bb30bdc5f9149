"""Set-up of MindSpore: once in a process, on the device that is present."""

from __future__ import annotations

import logging

import mindspore as ms
import pytest

import shared.device
from shared.device import setup_device
from shared.errors import DeviceError
from tests.support.fake_ascend import install_fake_ascend


def test_an_npu_is_set_up_once_for_both_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install_fake_ascend(monkeypatch)
    vision = setup_device("ascend")
    language = setup_device("auto", ascend_dtype="bfloat16")
    assert setup_device("ascend") == vision
    assert (vision.kind, vision.dtype, vision.kernels) == ("Ascend", "float32", "ascend")
    assert (language.kind, language.dtype, language.kernels) == ("Ascend", "bfloat16", "ascend")
    assert fake.calls == [
        ("device", "Ascend"),
        ("deterministic", True),
        ("conv_allow_hf32", False),
        ("matmul_allow_hf32", False),
    ]


def test_the_kernels_of_the_cpu_can_be_selected_on_an_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_ascend(monkeypatch)
    device = setup_device("ascend", kernels="plain")
    assert (device.kind, device.kernels) == ("Ascend", "cpu")


def test_a_second_device_in_a_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_ascend(monkeypatch)
    setup_device("ascend")
    with pytest.raises(DeviceError, match="device CPU: this process already computes on Ascend; start a new one"):
        setup_device("cpu")


def test_determinism_cannot_change_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install_fake_ascend(monkeypatch)
    setup_device("ascend", is_deterministic=False)
    assert "deterministic" not in dict(fake.calls)
    with pytest.raises(DeviceError, match="already computes on Ascend without determinism"):
        setup_device("ascend")


def test_a_plug_in_without_an_npu_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_ascend(monkeypatch, devices=0)
    with pytest.raises(DeviceError, match="device ascend: no NPU found"):
        setup_device("ascend")
    monkeypatch.setattr(shared.device, "_set_up", ("CPU", True))
    assert setup_device("auto").kind == "CPU"


def test_a_simulated_npu_needs_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_ascend(monkeypatch, devices=0)
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "1")
    assert setup_device("ascend").kind == "Ascend"


def test_a_refused_setting_sets_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install_fake_ascend(monkeypatch, devices=0)
    for settings in ({"dtype": "float16"}, {"dtype": "int8"}, {"kernels": "fast"}, {"device": "gpu"}):
        with pytest.raises(DeviceError):
            setup_device(**settings)
    assert not fake.calls


@pytest.mark.parametrize(("limit", "is_logged"), [("AVX2", True), ("AVX512_CORE", False)])
def test_the_limit_of_onednn_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str, is_logged: bool
) -> None:
    monkeypatch.setattr(shared.device, "_set_up", None)
    monkeypatch.setattr(shared.device, "_set_device", lambda kind: None)
    monkeypatch.setattr(shared.device.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ms, "__version__", "2.10.0")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    with caplog.at_level(logging.WARNING):
        setup_device("cpu")
        setup_device("cpu")
    assert caplog.text.count("oneDNN is limited to AVX2") == is_logged


def test_other_kernels_than_those_of_the_device_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets that were created without the option resume with its default."""
    assert "kernels" not in setup_device("cpu", kernels="plain").numerics()
    install_fake_ascend(monkeypatch)
    assert "kernels" not in setup_device("ascend").numerics()
    assert setup_device("ascend", kernels="plain").numerics()["kernels"] == "plain"
