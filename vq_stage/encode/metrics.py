"""Reconstruction quality: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

import numpy as np

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
