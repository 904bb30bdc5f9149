"""Pictures, and the dataset of an undisturbed run over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import ENCODER, encode, verified_digest
from tests.support.pictures import PICTURES, save_picture
from tests.support.stand_in_training import one_bucket


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of thirty-two pictures of 16 × 24 pixels with captions; tests must not modify it."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        save_picture(folder / f"picture-{index:02d}.png", index)
        (folder / f"picture-{index:02d}.txt").write_text(f"caption {index}")
    return folder


@pytest.fixture(scope="session")
def unbroken(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of one undisturbed run; tests must not modify it."""
    dataset = tmp_path_factory.mktemp("unbroken") / "dataset"
    encode(pictures, dataset, **ENCODER)
    return dataset


@pytest.fixture(scope="module")
def one_graph() -> Iterator[None]:
    """Fine-tuning runs of this process compile one graph each."""
    with pytest.MonkeyPatch.context() as patch:
        one_bucket(patch)
        yield


@pytest.fixture(scope="session")
def unbroken_digest(unbroken: Path) -> str:
    return verified_digest(unbroken)
