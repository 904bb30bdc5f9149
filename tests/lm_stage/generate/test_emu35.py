"""`emu3 generate` with a model of Emu3.5: upstream's tokens, the same codes in any batch, and after interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.inference.options import SamplingOptions
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.prompting import EMU35
from lm_stage.text.renderer import CodeGrid
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.errors import ConfigMismatchError
from shared.tokens.grid_formats import EMU35_IMAGE
from shared.tokens.layout import OPTIONAL_SURFACES
from shared.tokens.visual_tokens import grid_tokens
from tests.support.golden_directory import CAPTIONS, write_golden_directory
from tests.support.interrupted_generation import interrupted_after
from tests.support.models import write_language_model
from tests.support.prompts import write_entries
from tests.support.shared_caches import keep_models

GREEDY = SamplingOptions(greedy=True)


@pytest.fixture(scope="module")
def golden_directory(golden_emu35: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_golden_directory(golden_emu35, tmp_path_factory.mktemp("golden") / "model")


@pytest.fixture(scope="module")
def expected(golden_emu35: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((golden_emu35 / "expected.json").read_text())
    return values


def test_prompts_are_those_of_upstream_token_by_token(golden_directory: Path, expected: dict[str, Any]) -> None:
    model = ModelDirectory.open(golden_directory)
    renderer = PromptRenderer.for_job(GenerateOptions("p", "d", model=str(golden_directory)), model, None)
    for caption, ids in zip(CAPTIONS, expected["prompts"]):
        prompt = Prompt("k", "p", caption, "", expected["height"], expected["width"])
        assert renderer.prompt_ids(prompt) == [*ids, *expected["size_and_img"]]
        assert renderer.negative_ids(prompt) == [*expected["unconditional"], *expected["size_and_img"]]


@pytest.mark.parametrize("window", [1, 4])
def test_greedy_drawings_are_those_of_upstream(
    golden_directory: Path, golden_emu35: Path, expected: dict[str, Any], tmp_path: Path, window: int
) -> None:
    size = {name: expected[name] * 8 for name in ("height", "width")}
    prompts = write_entries(tmp_path / "p.jsonl", [{"prompt": caption, **size} for caption in CAPTIONS])
    options = GenerateOptions(
        str(prompts), str(tmp_path / "tokens"), model=str(golden_directory), sampling=GREEDY, window=window
    )
    assert generate(options).rows == len(CAPTIONS)
    layout = ModelDirectory.open(golden_directory).layout
    index = KeyReader(Dataset.open(tmp_path / "tokens"))
    with np.load(golden_emu35 / "expected.npz") as arrays:
        for number, key in enumerate(index):
            tokens = grid_tokens(index.row(key).codes_THW, layout, EMU35_IMAGE)
            np.testing.assert_array_equal(tokens, arrays[f"tokens_{number}"])
    assert expected["guidance_scale"] == EMU35.text_to_image_guidance


@pytest.fixture(scope="module")
def emu35_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose vocabulary has Emu3.5's control tokens."""
    directory = tmp_path_factory.mktemp("models") / "emu35"
    return write_language_model(directory, roles=tuple(OPTIONAL_SURFACES), qk_norm=True)


Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def _kept_models() -> Iterator[None]:
    """Jobs compile the graphs of a model once."""
    with pytest.MonkeyPatch.context() as patch:
        keep_models(patch, {})
        yield


@pytest.fixture
def run(emu35_lm: Path, tmp_path: Path) -> Run:
    """Generate three images; return their codes by key."""
    entries = [{"prompt": "a red apple " * count, "key": f"k{count}", "height": 32, "width": 40} for count in (1, 2, 3)]
    prompts = write_entries(tmp_path / "p.jsonl", entries)

    def run(name: str, **changes: Any) -> dict[str, np.ndarray]:
        generate(GenerateOptions(str(prompts), str(tmp_path / name), model=str(emu35_lm), **changes))
        index = KeyReader(Dataset.open(tmp_path / name))
        return {key: index.row(key).codes_THW for key in index}

    return run


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], key)


def test_drawings_do_not_depend_on_batch_and_window(run: Run) -> None:
    together = run("together")
    assert_equal(run("alone", batch_size=1), together)
    assert_equal(run("windows", window=5), together)


def test_an_interrupted_image_is_continued(run: Run, tmp_path: Path) -> None:
    from lm_stage.inference.visual_generator import VisualGenerator

    unbroken = run("unbroken")
    with interrupted_after(13, VisualGenerator):
        run("resumed", journal_rows=1)
    assert list((tmp_path / "resumed").rglob("*journal*")), "nothing was journaled"
    assert_equal(run("resumed", journal_rows=1), unbroken)


def test_settings_record_the_prompting(run: Run, tmp_path: Path) -> None:
    run("tokens")
    generation = Dataset.open(tmp_path / "tokens").plan().settings.generation or {}
    assert (generation["template"], generation["guidance_scale"]) == ("emu3.5", 5.0)
    assert (generation["sampling"]["top_k"], generation["layout"]["bss"] > 0) == (5120, True)
    with pytest.raises(ConfigMismatchError, match="template"):
        run("tokens", prompting="plain")


def test_an_edit_repeats_its_images_in_the_unconditional_stream(coded_images: Dataset, emu35_lm: Path) -> None:
    model, images = ModelDirectory.open(emu35_lm), KeyReader(coded_images)
    options = GenerateOptions("p", "d", model=str(emu35_lm), images="codes")
    renderer = PromptRenderer.for_job(options, model, images)
    prompt = Prompt("a", "p", "make it blue", "", 2, 3, images=("three",))
    image, sequences = CodeGrid.image(images.image("three")), renderer.sequences
    drawn = sequences.header(EMU35_IMAGE, 1, 2, 3).tolist()
    edit = sequences.question_prompt([image, "make it blue"], EMU35.image_editing).tolist()
    assert renderer.prompt_ids(prompt) == [*edit, *drawn]
    unconditional = sequences.question_prompt([image], EMU35.unconditional).tolist()
    assert renderer.negative_ids(prompt) == [*unconditional, *drawn]
    assert options.prompt_settings(model.prompting).guidance_scale == EMU35.image_editing_guidance
    assert renderer.with_image_size(replace(prompt, height=0, width=0)) == prompt
