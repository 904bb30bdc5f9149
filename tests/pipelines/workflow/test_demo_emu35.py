"""The packaged pipeline `demo-emu35`, its files, and the embedded tokenizer of Emu3.5."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.cli import main
from pipelines.workflow.file import EXAMPLES
from pipelines.workflow.pipeline import load_pipeline
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.dataset.rows import AnswerRecord
from shared.training.log import TrainLog
from tests.support.command import environment
from tests.support.documentation import REPOSITORY
from vq_stage.model.families import read_config
from vq_stage.tokenizer import VisionTokenizer

DEMO = REPOSITORY / "pipelines/demo"
TOKENIZER = REPOSITORY / "vq_stage/embedded/emu35-tiny"
MAX_BYTES = 8_000_000


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / "emu35" / name).read_text(encoding="utf-8").splitlines()]


def test_the_pipeline_is_valid(tmp_path: Path) -> None:
    pipeline = load_pipeline("demo-emu35", {}, str(tmp_path / "out"), main)
    commands = [step.command for step in pipeline.steps]
    assert commands[:5] == ["encode", "verify", "decode", "init-lm", "generate"]
    assert commands.count("decode") == 5


def test_documents_and_prompts_name_pictures_of_the_list() -> None:
    pictures = {entry["key"]: entry for entry in lines("pictures.jsonl")}
    assert all((DEMO / "pictures/emoji" / entry["image"]).is_file() for entry in pictures.values())
    documents = {entry["key"]: entry for entry in lines("documents.jsonl")}
    for entry in documents.values():
        assert {*entry.get("images", []), *entry["answer_images"]} <= pictures.keys()
    prompts = [*lines("edit-prompts.jsonl"), *lines("story-prompts.jsonl")]
    assert prompts == [
        {name: one[name] for name in ("key", "text", "images") if name in one} for one in documents.values()
    ]


def test_every_packaged_pipeline_is_documented() -> None:
    page, text = (REPOSITORY / "docs/pipelines.md").read_text(encoding="utf-8"), main.commands["run"].help or ""
    for example in EXAMPLES.glob("*.yaml"):
        assert f"| `{example.stem}` |" in page
        assert example.stem in text


def test_the_embedded_tokenizer_restores_a_picture() -> None:
    assert sum(path.stat().st_size for path in TOKENIZER.iterdir()) < MAX_BYTES
    assert read_config(TOKENIZER).codec.temporal_factor == 1
    with Image.open(DEMO / "pictures/emoji/goat.webp") as image:
        drawn = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = np.asarray(drawn.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))[None]
    tokenizer = VisionTokenizer.from_pretrained(TOKENIZER)
    codes = tokenizer.encode_images(pixels)
    assert (codes.shape, codes.dtype.name) == ((1, 8, 8), "uint16")
    error = np.square(tokenizer.decode_images(codes).astype(float) - pixels).mean()
    assert 10 * np.log10(255**2 / error) > 15


@pytest.mark.slow
def test_the_pipeline_runs(tmp_path: Path) -> None:
    """All steps, with a training of two steps."""
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        "demo-emu35",
        "--out",
        "out",
        "--set",
        "steps=2",
        "--set",
        "warmup=0",
    ]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, timeout=3600)
    assert (tmp_path / "out/report.html").is_file()
    assert len(TrainLog(tmp_path / "out/tuned", 2).entries) == 2
    for name, count in (("restored", 40), ("before", 40), ("after", 40), ("edited", 8)):
        assert len(list((tmp_path / "out" / name).glob("*.png"))) == count
    index = KeyReader(Dataset.open(tmp_path / "out/answers"))
    assert all(isinstance(index.row(key), AnswerRecord) for key in index)
    assert len(list((tmp_path / "out/stories").glob("*.html"))) == 3
