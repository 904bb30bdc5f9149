"""What tests share: the golden models and small folders of pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import shared  # noqa: F401  quiets MindSpore before a test module imports it

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_vq() -> Path:
    """A BAAI-named tokenizer with random weights; see golden/PROVENANCE.md."""
    return GOLDEN / "baai_vq_small"


@pytest.fixture(scope="session")
def golden_lm() -> Path:
    """A decoder with random weights; see golden/PROVENANCE.md."""
    return GOLDEN / "lm_small"


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


@pytest.fixture(scope="session")
def small_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with random weights, a text vocabulary and the embedded vision tokenizer's codec."""
    return write_language_model(tmp_path_factory.mktemp("models") / "small")


def write_language_model(directory: Path, codebook_size: int = 2048, positions: int = 400, **config: int) -> Path:
    """A checkpoint directory as users have them; the weights come from a fixed seed."""
    from lm_stage.model.config import DecoderConfig
    from lm_stage.model.weights import parameter_shapes
    from lm_stage.text.tokenizer import train_text_tokenizer
    from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint

    directory.mkdir(parents=True)
    vocabulary = train_text_tokenizer(["a red apple", "a green pear"] * 3, 280, codebook_size)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions}
    shape = DecoderConfig(vocab_size=vocabulary.vocab_size, **{**sizes, **heads, **config})
    described = {**shape.to_dict(), "token_layout": vocabulary.layout.to_dict(), "image_area": 32 * 32}
    described["codec_fingerprint"] = codec_fingerprint(EMBEDDED_TOKENIZER)
    (directory / "config.json").write_text(json.dumps(described))
    (directory / "tokenizer.json").write_text(vocabulary.tokenizer_json, encoding="utf-8")
    random, tensors = np.random.default_rng(0), {}
    for name, size in parameter_shapes(shape).items():
        tensors[name] = np.ones(size, np.float32) if len(size) == 1 else random.normal(0, 0.3, size).astype(np.float32)
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[str], str]]:
    """Makes buckets on an S3 server of this machine, found through the variables that every client knows."""
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
