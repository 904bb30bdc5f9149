"""mindone's vision tokenizer behind our interface: same codes and pixels as the golden data, and its refusals.

mindone runs once, in a process of its own, because mint is patched there: see `tests/support/mindone_kernels.py`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared.errors import DeviceError
from tests.support.mindone_kernels import run_probe
from vq_stage.model.families import read_config
from vq_stage.model.mindone import build_emu3_vqvae
from vq_stage.tokenizer import VisionTokenizer, to_uint8

MINDONE_MODULE = "mindone.transformers.models.emu3.modeling_emu3"
GRAY_LEVELS = 1  # measured: 1, on 0.5 % of the values, because upstream truncates and the golden pixels are float16


@pytest.fixture(scope="module")
def damaged_vq(golden_vq: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with one tensor renamed and one shortened."""
    directory = tmp_path_factory.mktemp("damaged") / "vq"
    shutil.copytree(golden_vq, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["encoder.conv_inn.weight"] = tensors.pop("encoder.conv_in.weight")
    tensors["quantize.embedding.weight"] = tensors["quantize.embedding.weight"][:-1].copy()
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def mindone_run(
    golden_vq: Path,
    damaged_vq: Path,
    golden_vq_expected: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, np.ndarray]:
    """Codes and pixels that mindone computes for one golden image and one golden clip of four frames."""
    folder = tmp_path_factory.mktemp("mindone")
    inputs = folder / "inputs.npz"
    np.savez(inputs, images=golden_vq_expected["images"][:1], video=golden_vq_expected["video"][:4])
    return run_probe("mindone_vision_probe", golden_vq, damaged_vq, inputs, outputs=folder / "outputs.npz")


def gray_level_error(pixels_BHWC: np.ndarray, recon_BCHW: np.ndarray) -> int:
    expected = to_uint8(recon_BCHW.astype(np.float32).transpose(0, 2, 3, 1))
    assert pixels_BHWC.shape == expected.shape
    return int(np.abs(pixels_BHWC.astype(int) - expected).max())


def test_image_codes_and_pixels_are_golden(
    mindone_run: dict[str, np.ndarray], golden_vq_expected: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(mindone_run["image_codes"], golden_vq_expected["image_codes"][:1])
    assert gray_level_error(mindone_run["image_pixels"], golden_vq_expected["image_recon"][:1]) <= GRAY_LEVELS


def test_clip_codes_and_pixels_are_golden(
    mindone_run: dict[str, np.ndarray], golden_vq_expected: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(mindone_run["video_codes"], golden_vq_expected["video_codes"][0])
    assert gray_level_error(mindone_run["video_pixels"], golden_vq_expected["video_recon"][0]) <= GRAY_LEVELS


def test_checkpoint_that_does_not_fit_is_refused_by_tensor_name(mindone_run: dict[str, np.ndarray]) -> None:
    refusal = str(mindone_run["refusal"])
    assert "missing encoder.conv_in.weight" in refusal
    assert "extra encoder.conv_inn.weight" in refusal
    assert "quantize.embedding.weight: expected shape (512, 4), got (511, 4)" in refusal


def test_cpu_is_refused_with_the_reason_before_mindone_is_imported(
    golden_vq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MINDONE_MODULE, None)  # an import would fail, with another message
    with pytest.raises(DeviceError, match=r"mint.*not registered on CPU.*--backend native"):
        VisionTokenizer.from_pretrained(golden_vq, device="cpu", backend="mindone")


def test_missing_mindone_is_a_device_error(golden_vq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MINDONE_MODULE, None)
    with pytest.raises(DeviceError, match=r"pip check.*--backend native"):
        build_emu3_vqvae(read_config(golden_vq))
