"""The checks before a model of the mindone library is loaded."""

from __future__ import annotations

import pytest

from shared.errors import DeviceError, UsageError
from shared.mindone import check_backend, check_vision_backend, importing_mindone


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="--backend 'torch': expected one of native, mindone"):
        check_backend("torch", "auto")


@pytest.mark.parametrize("device", ["cpu", "CPU"])
def test_mindone_is_refused_on_a_cpu_only(device: str) -> None:
    check_backend("native", device)
    for other in ("auto", "ascend", "Ascend"):
        check_backend("mindone", other)
    with pytest.raises(DeviceError, match=r"kernels \(Arange.*\) are not registered on CPU; use --backend native"):
        check_backend("mindone", device)


def test_kernels_cannot_be_chosen_for_mindone() -> None:
    check_backend("native", "ascend", "plain")
    with pytest.raises(UsageError, match=r"--kernels plain with --backend mindone: .*omit --kernels"):
        check_backend("mindone", "ascend", "plain")
    with pytest.raises(UsageError, match=r"--kernels plain with --backend mindone"):
        check_vision_backend("mindone", "ascend", None, "plain")


def test_a_vision_tokenizer_of_mindone_computes_in_float32() -> None:
    check_vision_backend("native", "ascend", "float16")
    for dtype in (None, "float32"):
        check_vision_backend("mindone", "ascend", dtype)
    with pytest.raises(UsageError, match=r"--dtype bfloat16 with --backend mindone: expected float32.*omit --dtype"):
        check_vision_backend("mindone", "ascend", "bfloat16")
    with pytest.raises(DeviceError, match="not registered on CPU"):
        check_vision_backend("mindone", "cpu", None)


def test_an_import_prints_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with importing_mindone():
        print("notice")
    assert capsys.readouterr() == ("", "notice\n")


def test_a_failed_import_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match=r"no module.*pip check.*--backend native"), importing_mindone():
        raise ImportError("no module")
