"""Fixtures for all tests: the golden models, a small language model, pictures and an S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import shared  # noqa: F401  quiets MindSpore before a test module imports it
from tests.support.garbage import rarely_collect_garbage
from tests.support.models import write_language_model
from tests.support.pictures import save_picture

# As in the processes that tests start: tests share the machine, and threads that wait for each other take its time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_finish() -> None:
    """All modules that tests import are imported."""
    rarely_collect_garbage()


@pytest.fixture(scope="session")
def golden_vq() -> Path:
    """A BAAI-named tokenizer with random weights; see golden/PROVENANCE.md."""
    return GOLDEN / "baai_vq_small"


@pytest.fixture(scope="session")
def golden_lm() -> Path:
    """A decoder with random weights; see golden/PROVENANCE.md."""
    return GOLDEN / "lm_small"


@pytest.fixture(scope="session")
def golden_emu35() -> Path:
    """A decoder with norms of queries and keys; see golden/PROVENANCE.md."""
    return GOLDEN / "emu35_lm_small"


@pytest.fixture(scope="session")
def golden_vq_expected(golden_vq: Path) -> dict[str, np.ndarray]:
    with np.load(golden_vq / "expected.npz") as file:
        expected = {name: file[name] for name in file.files}
    assert expected["image_codes"].size, "the golden corpus is empty"
    return expected


@pytest.fixture(scope="session")
def golden_ibq() -> Path:
    """A tokenizer in Emu3.5's published form with random weights; see golden/PROVENANCE.md."""
    return GOLDEN / "emu35_vq_small"


@pytest.fixture(scope="session")
def golden_ibq_expected(golden_ibq: Path) -> dict[str, np.ndarray]:
    with np.load(golden_ibq / "expected.npz") as file:
        expected = {name: file[name] for name in file.files}
    assert expected["codes"].size, "the golden corpus is empty"
    return expected


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """A folder of twelve 16×24 pictures with captions."""
    folder = tmp_path / "pictures"
    for index in range(12):
        save_picture(folder / f"picture-{index:02d}.png", index)
        (folder / f"picture-{index:02d}.txt").write_text(f"caption {index}")
    return folder


@pytest.fixture(scope="session")
def small_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with random weights, a text vocabulary and the embedded vision tokenizer's codec."""
    return write_language_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[str], str]]:
    """Return a function that creates buckets on a local S3 server, which clients find through the usual variables."""
    moto_server, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")

        def bucket(name: str) -> str:
            s3fs.S3FileSystem().mkdir(name)
            return f"s3://{name}"

        yield bucket
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
