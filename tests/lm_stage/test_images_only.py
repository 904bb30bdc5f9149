"""Models of a codec that encodes images only: videos are refused by the API, and by the job before weights load."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from lm_stage import LanguageModel, VideoRequest
from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from shared.errors import UsageError
from tests.support.prompts import write_entries

ADVICE = "encodes images only; ask for the frames as images"


@pytest.fixture(scope="module")
def images_only_lm(small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "images-only"
    shutil.copytree(small_lm, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "codec_temporal_factor": 1}))
    return directory


def test_the_model_generates_no_videos(images_only_lm: Path) -> None:
    model = LanguageModel.from_pretrained(images_only_lm)
    with pytest.raises(UsageError, match=ADVICE):
        model.generate_videos(VideoRequest(prompts=["a red apple"], frames=3, height=2, width=3))


def test_the_job_refuses_videos_before_weights_load(
    images_only_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", None)
    prompts, dataset = write_entries(tmp_path / "p.jsonl", [{"prompt": "a"}]), tmp_path / "d"
    with pytest.raises(UsageError, match=f"--frames 2: .* {ADVICE}"):
        generate(GenerateOptions(str(prompts), str(dataset), model=str(images_only_lm), frames=2))
    assert not dataset.exists()
