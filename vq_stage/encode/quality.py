"""Quality of codes: how well they reconstruct their image, and a canary, a test image with known codes.

The canary reveals wrong weights or a faulty device before hours of bad codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.dataset.dataset import Dataset
from shared.errors import DatasetError
from shared.storage.atomic import create_file
from shared.storage.checked_json import dump_checked_json, read_checked_json

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

MIN_EQUAL_SHARE = 0.99
_WINDOW = 8
_STRIDE = 4
_LUMA = np.array([0.299, 0.587, 0.114])


def reconstruction_quality(original: np.ndarray, restored: np.ndarray) -> dict[str, float]:
    """Return `psnr_db` and `ssim` of a uint8 image (H, W, 3), or of a clip (T, H, W, 3) as the mean over frames."""
    frame_shape = original.shape[-3:]
    pairs = zip(original.reshape(-1, *frame_shape), restored.reshape(-1, *frame_shape))
    mean_ssim = float(np.mean([ssim(*pair) for pair in pairs]))
    return {"psnr_db": round(psnr_db(original, restored), 3), "ssim": round(mean_ssim, 4)}


def psnr_db(original_HWC: np.ndarray, restored_HWC: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of uint8 images in dB, over all channels; 99 for equal images."""
    error = np.mean((original_HWC.astype(np.float64) - restored_HWC) ** 2)
    return min(99.0, float(10 * np.log10(255.0**2 / error))) if error else 99.0


def ssim(original_HWC: np.ndarray, restored_HWC: np.ndarray) -> float:
    """Return the mean structural similarity of the luma of uint8 images, in [-1, 1].

    Windows of 8×8 pixels every 4 pixels, with equal weights. Source: Wang et al. 2004.
    """
    x, y = (_windows(image.astype(np.float64) @ _LUMA) for image in (original_HWC, restored_HWC))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = x.mean(axis=(2, 3)), y.mean(axis=(2, 3))
    covariance = (x * y).mean(axis=(2, 3)) - mean_x * mean_y
    variances = x.var(axis=(2, 3)) + y.var(axis=(2, 3))
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def _windows(luma_HW: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(luma_HW, (_WINDOW, _WINDOW))[::_STRIDE, ::_STRIDE]


def canary_image(height: int, width: int) -> np.ndarray:
    """Return a uint8 image (height, width, 3) of gradients, rings and fixed noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rings = 127 + 120 * np.sin(np.hypot(y - height / 3, x - width / 2) / 5)
    noise = np.random.Generator(np.random.PCG64(7)).integers(0, 256, (height, width))
    planes = (255 * x / max(1, width - 1), rings, np.where(y + x > (height + width) / 2, noise, 64))
    return np.stack(planes, axis=2).astype(np.uint8)


def check_canary(dataset: Dataset, tokenizer: VisionTokenizer, batch: int, height: int, width: int) -> None:
    """Encode the canary at a size and batch of the job, and compare with the codes of the dataset's first worker.

    Raises DatasetError if fewer than 99 % of the codes are equal.
    """
    pixels = np.repeat(canary_image(height, width)[None], batch, axis=0)
    codes = tokenizer.encode_images(pixels)[0].reshape(-1)
    path = dataset.canary_path
    if create_file(path, dump_checked_json({"height": height, "width": width, "codes": codes.tolist()})):
        return
    expected = _recorded_codes(path)
    equal = float(np.mean(expected == codes)) if expected.shape == codes.shape else 0.0
    if equal < MIN_EQUAL_SHARE:
        raise DatasetError(
            f"{path}: canary: {equal:.1%} of the codes equal the dataset's, expected at least {MIN_EQUAL_SHARE:.0%};"
            " this device or these weights give different codes; nothing was encoded; check the device, or encode into"
            " a new dataset"
        )


def _recorded_codes(path: Path) -> np.ndarray:
    codes = read_checked_json(path).get("codes")
    if not isinstance(codes, list) or not all(type(code) is int for code in codes):
        raise DatasetError(f"{path}: expected a list of codes; remove the file, and the next worker writes it again")
    return np.array(codes)
