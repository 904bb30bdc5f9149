"""Generation with a model whose codes take 32 bits and cover 16 × 16 pixels, over a stand-in for its logits."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lm_stage.generate.worker
from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.model.codec import codec_keys
from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.device import Device
from shared.errors import Interrupted, UsageError
from tests.support.models import write_language_model
from tests.support.prompts import write_entries
from tests.support.small_datasets import all_rows, digest
from tests.support.step_by_step import StandInCache, StandInLanguageModel

CODEC = Codec("ef" * 32, 70_000, spatial_factor=16, temporal_factor=1)


@pytest.fixture(scope="module")
def wide_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_language_model(tmp_path_factory.mktemp("models") / "wide", CODEC.codebook_size, positions=100)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **codec_keys(CODEC)}))
    return directory


@pytest.fixture
def options(wide_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateOptions:
    """Two images of 3 × 2 codes, without a model in memory."""
    stand_in: Any = ModuleType("lm_stage.language_model")
    stand_in.LanguageModel = StandInLanguageModel
    monkeypatch.setitem(sys.modules, "lm_stage.language_model", stand_in)
    monkeypatch.setattr(lm_stage.generate.worker, "setup_device", lambda *given: Device("CPU", "float32", "none"))
    prompts = write_entries(tmp_path / "prompts.jsonl", [{"prompt": "a red apple"}, {"prompt": "a green pear"}])
    size = {"height": 48, "width": 32, "guidance_scale": 1.0, "journal_rows": 1}
    return GenerateOptions(str(prompts), str(tmp_path / "tokens"), model=str(wide_lm), **size)  # type: ignore[arg-type]


def test_a_stopped_job_continues_with_the_codes_in_its_journal(
    options: GenerateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(options)
    rows = all_rows(options.dataset)
    assert [(row.codes_THW.shape, row.code_dtype, row.src_h, row.src_w) for row in rows] == [
        ((1, 3, 2), "uint32", 48, 32)
    ] * 2
    assert max(int(row.codes_THW.max()) for row in rows) > 65_535
    assert Dataset.open(options.dataset).plan().settings.codec == CODEC
    whole = digest(options.dataset)
    again = Path(options.dataset).with_name("again")
    stopped = replace(options, dataset=str(again))
    stop_at_step(5, monkeypatch)
    with pytest.raises(Interrupted):
        generate(stopped)
    assert list((again / "partial").glob("*.journal"))
    monkeypatch.setattr(StandInCache, "decode_step", DECODE_STEP)
    generate(stopped)
    assert digest(again) == whole


DECODE_STEP = StandInCache.decode_step


def stop_at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process in one of its decode steps."""
    steps = Counter[str]()

    def decode_step(cache: StandInCache, *given: Any) -> Any:
        steps["done"] += 1
        if steps["done"] == number:
            signal.raise_signal(signal.SIGTERM)
        return DECODE_STEP(cache, *given)

    monkeypatch.setattr(StandInCache, "decode_step", decode_step)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"height": 40}, "40×32 pixels: expected multiples of 16"),
        ({"frames": 2}, "--frames 2: expected 0 .* encodes images only"),
    ],
)
def test_what_the_codec_does_not_have_is_refused(changes: dict[str, int], named: str, options: GenerateOptions) -> None:
    with pytest.raises(UsageError, match=named):
        generate(replace(options, **changes))  # type: ignore[arg-type]
