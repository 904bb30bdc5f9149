"""The checks before a model of the mindone library is loaded."""

from __future__ import annotations

import pytest

from shared.device import Device
from shared.errors import DeviceError
from shared.mindone import importing_mindone, refuse_cpu


def test_only_a_cpu_is_refused() -> None:
    refuse_cpu(Device("Ascend", "float32", "2.8.0"), "Arange")
    with pytest.raises(DeviceError, match=r"kernels \(Arange\) are not registered on CPU; use --backend native"):
        refuse_cpu(Device("CPU", "float32", "2.8.0"), "Arange")


def test_an_import_prints_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with importing_mindone():
        print("notice")
    assert capsys.readouterr() == ("", "notice\n")


def test_a_failed_import_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match=r"no module.*pip install"), importing_mindone():
        raise ImportError("no module")
