"""A test image with known codes, which reveals wrong weights or a faulty device before hours of bad codes."""

from __future__ import annotations

import numpy as np

from shared.dataset.dataset import Dataset
from shared.errors import DatasetError
from shared.storage.atomic import create_file
from shared.storage.checked_json import dump_checked_json, load_checked_json
from vq_stage.tokenizer import VisionTokenizer

MIN_EQUAL_SHARE = 0.99


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
    expected = np.array(load_checked_json(path.read_bytes(), str(path))["codes"])
    equal = float(np.mean(expected == codes)) if expected.shape == codes.shape else 0.0
    if equal < MIN_EQUAL_SHARE:
        raise DatasetError(
            f"{path}: canary: {equal:.1%} of the codes equal the dataset's, expected at least {MIN_EQUAL_SHARE:.0%};"
            " this device or these weights give different codes; nothing was encoded; check the device, or encode into"
            " a new dataset"
        )
