"""Checks of the vision tokenizer: codes and pixels of the embedded model, its canary, and its speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from pipelines.doctor.check import PLAIN_KERNELS, Finding, Setting
from pipelines.doctor.expected import SIDE, expected
from pipelines.doctor.tolerances import TOLERANCES

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

TIMED_BATCHES = 6
NEXT_STEP = f"do not encode with this number type; {PLAIN_KERNELS}"


def load(device: str, dtype: str, kernels: str, backend: str = "native") -> VisionTokenizer:
    """Return the embedded tokenizer."""
    from vq_stage.model.weights import EMBEDDED_TOKENIZER
    from vq_stage.tokenizer import VisionTokenizer

    return VisionTokenizer.from_pretrained(EMBEDDED_TOKENIZER, device, dtype, backend, kernels)


def canary_codes(tokenizer: VisionTokenizer) -> np.ndarray:
    """Return the codes of the canary, the test image of every encode job."""
    from vq_stage.encode.quality import canary_image

    return tokenizer.encode_images(canary_image(SIDE, SIDE)[None])


def check_codes(setting: Setting, dtype: str) -> Finding:
    """Codes of embedded pictures, and images per second."""
    tokenizer = load(setting.device, dtype, setting.kernels)
    codes = tokenizer.encode_images(expected()["pictures"])
    return _judge_codes(codes, expected()["codes"], dtype, {"images_per_s": images_per_s(tokenizer)})


def check_canary(setting: Setting, dtype: str) -> Finding:
    """Codes of the canary."""
    codes = canary_codes(load(setting.device, dtype, setting.kernels))
    return _judge_codes(codes, expected()["canary"], dtype, {})


def check_pixels(setting: Setting, dtype: str) -> Finding:
    """Pixels that the expected codes decode to."""
    pixels = load(setting.device, dtype, setting.kernels).decode_images(expected()["codes"])
    wanted = expected()["pixels"].astype(np.int16)
    difference = float(np.abs(pixels - wanted).mean()) if pixels.shape == wanted.shape else float("inf")
    allowed = TOLERANCES[dtype].pixels
    reason = f"pixels differ by {difference:.3g} levels of 255 on average, at most {allowed:g} are allowed"
    return Finding.of(difference <= allowed, reason, NEXT_STEP, {"mean_difference_levels": difference})


def images_per_s(tokenizer: VisionTokenizer) -> float:
    """Return how many images of 64 × 64 pixels are encoded in a second, without compilation."""
    batch = expected()["pictures"]
    tokenizer.encode_images(batch)
    began = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        tokenizer.encode_images(batch)
    return TIMED_BATCHES * len(batch) / (time.perf_counter() - began)


def _judge_codes(codes: np.ndarray, wanted: np.ndarray, dtype: str, measured: dict[str, float]) -> Finding:
    equal = int((codes == wanted).sum()) if codes.shape == wanted.shape else 0
    share, least = equal / wanted.size, TOLERANCES[dtype].codes
    speed = f"; {measured['images_per_s']:.1f} images/s of 64 × 64 pixels" if measured else ""
    reason = f"{equal} of {wanted.size} codes ({share:.1%}) are as expected, at least {least:.0%} are required{speed}"
    return Finding.of(share >= least, reason, NEXT_STEP, {"equal_share": share, **measured})
