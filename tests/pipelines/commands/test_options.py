"""`--kernels` and `--deterministic` reach the set-up of the device, before a model loads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import shared.device
from lm_stage.training.options import SftOptions
from pipelines.cli import main
from shared.errors import DeviceError
from tests.support.captioned_codes import write_codes

LOADERS = ("vq_stage.tokenizer", "vq_stage.training.job", "lm_stage.language_model", "lm_stage.training.job")
EARLIER = ("vq_stage.encode.worker", "lm_stage.generate.worker")  # which record the numerics before a model is loaded
Settings = dict[str, object]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Return the settings with which the device is set up; the command stops there."""
    seen: list[Settings] = []

    def record(is_last: bool) -> Callable[..., object]:
        def set_up(
            device: str = "auto",
            dtype: str | None = None,
            ascend_dtype: str = "float32",
            kernels: str = "auto",
            is_deterministic: bool = True,
        ) -> object:
            seen.append({"kernels": kernels, "is_deterministic": is_deterministic})
            if is_last:
                raise DeviceError("seen")
            return shared.device.Device("CPU", "float32", "2.8.0")

        return set_up

    for module in (*LOADERS, *EARLIER):
        monkeypatch.setattr(importlib.import_module(module), "setup_device", record(module in LOADERS))
    return seen


@pytest.fixture
def arguments(tmp_path: Path, small_lm: Path, golden_vq: Path) -> dict[str, list[str]]:
    """Return the arguments of each command that loads a model."""
    pictures, prompts = tmp_path / "pictures", tmp_path / "prompts.txt"
    pictures.mkdir()
    Image.new("RGB", (64, 64)).save(pictures / "black.png")
    prompts.write_text("a red apple\n")
    codes = str(write_codes(tmp_path / "codes"))
    out, model = str(tmp_path / "out"), ["--model", str(small_lm)]
    return {
        "encode": [str(pictures), out],
        "decode": [codes, out],
        "generate": [str(prompts), out, *model],
        "understand": [codes, out, *model],
        "sft": [codes, out, *model, "--seq-length", "64"],
        "train-vq": [str(pictures), out, "--init-from", str(golden_vq)],
    }


@pytest.mark.parametrize("command", ["encode", "decode", "generate", "understand", "sft", "train-vq"])
def test_kernels_reach_the_device(command: str, arguments: dict[str, list[str]], settings: list[Settings]) -> None:
    result = CliRunner().invoke(main, [command, *arguments[command], "--kernels", "plain"])
    assert "seen" in result.stderr, result.stderr
    assert [one["kernels"] for one in settings] == ["plain"] * (2 if command in ("encode", "generate") else 1)
    assert all(one["is_deterministic"] for one in settings)


def test_determinism_of_sft_reaches_the_device(arguments: dict[str, list[str]], settings: list[Settings]) -> None:
    assert SftOptions(("codes",), "run").deterministic
    CliRunner().invoke(main, ["sft", *arguments["sft"], "--no-deterministic"])
    assert settings == [{"kernels": "auto", "is_deterministic": False}]
