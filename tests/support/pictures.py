"""Small pictures, different for every seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 32  # in the folder that the fault tests encode


def save_picture(path: Path, seed: int, height: int = 16, width: int = 24, mode: str = "RGB") -> None:
    """Save a small picture of smooth noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
