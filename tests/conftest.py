"""What tests share: the golden tokenizer and small folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shared  # noqa: F401  quiets MindSpore before a test module imports it

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_vq() -> Path:
    """A BAAI-named tokenizer with random weights; see golden/PROVENANCE.md."""
    return GOLDEN / "baai_vq_small"


@pytest.fixture(scope="session")
def golden_vq_expected(golden_vq: Path) -> dict[str, np.ndarray]:
    with np.load(golden_vq / "expected.npz") as file:
        expected = {name: file[name] for name in file.files}
    assert expected["image_codes"].size, "the golden corpus is empty"
    return expected


def save_picture(path: Path, seed: int, height: int = 16, width: int = 24, mode: str = "RGB") -> None:
    """A small picture of smooth noise, different for every seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Twelve 16×24 pictures with captions."""
    folder = tmp_path / "pictures"
    for index in range(12):
        save_picture(folder / f"picture-{index:02d}.png", index)
        (folder / f"picture-{index:02d}.txt").write_text(f"caption {index}")
    return folder
