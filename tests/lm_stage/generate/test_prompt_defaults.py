"""The settings of prompts that do not have their own: given ones, those of the model, or published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.prompt_defaults import prompt_defaults
from lm_stage.generate.prompts import PromptDefaults
from lm_stage.model.checksums import CHECKSUMS_FILE, write_model_directory
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.prompting import EMU35
from shared.codec import EMU3
from shared.errors import CheckpointError
from shared.tokens.layout import OPTIONAL_SURFACES
from tests.support.models import write_language_model


@pytest.fixture(scope="module")
def emu35_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("models") / "emu35", roles=tuple(OPTIONAL_SURFACES))


def defaults(model: Path, **settings: Any) -> PromptDefaults:
    options = GenerateOptions("p", "d", **settings)
    return prompt_defaults(options, ModelDirectory.open(model, prompting=options.prompting))


def with_area(model: Path, directory: Path, area: object) -> Path:
    """Write a copy of a model whose config has another area, or none."""
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.name != CHECKSUMS_FILE}
    config = {name: value for name, value in json.loads(files["config.json"]).items() if name != "image_area"}
    config |= {} if area is None else {"image_area": area}
    write_model_directory(directory, {**files, "config.json": json.dumps(config).encode()})
    return directory


def test_the_area_is_given_or_that_of_the_model_or_published(emu35_lm: Path, tmp_path: Path) -> None:
    published = with_area(emu35_lm, tmp_path / "model", None)
    assert defaults(emu35_lm, area=4096).area == 4096
    assert defaults(emu35_lm).area == defaults(emu35_lm, task="story").area == 1024
    assert defaults(published).area == defaults(published, task="t2i").area == EMU35.area
    assert defaults(published, task="story").area == EMU35.interleaved_area


def test_what_the_model_says_is_used_unless_it_is_given(emu35_lm: Path) -> None:
    model = ModelDirectory.open(emu35_lm)
    found = defaults(emu35_lm, ratio="3:2", seed=5, samples=2)
    assert (found.codec, found.prompting, found.is_size_given, found.is_answer) == (model.codec, EMU35, True, False)
    assert (found.seed, found.samples) == (5, 2)
    assert defaults(emu35_lm, prompting="emu3").negative_prompt.startswith("lowres")
    assert prompt_defaults(GenerateOptions("p", "d"), model, EMU3).codec == EMU3


@pytest.mark.parametrize(("settings", "is_given"), [({}, False), ({"ratio": "1:1"}, True), ({"area": 4096}, True)])
def test_a_ratio_is_given_even_if_it_is_the_usual_one(emu35_lm: Path, settings: dict[str, Any], is_given: bool) -> None:
    found = defaults(emu35_lm, **settings)
    assert (found.ratio, found.is_size_given) == ("1:1", is_given)
    assert found.to_json()["ratio"] == "1:1"


def test_a_bad_area_is_refused(emu35_lm: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="image_area 'large': expected an integer"):
        defaults(with_area(emu35_lm, tmp_path / "model", "large"))


def test_checksums_are_compared_by_default(emu35_lm: Path, tmp_path: Path) -> None:
    model = with_area(emu35_lm, tmp_path / "model", 1024)
    (model / "config.json").write_bytes((model / "config.json").read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        ModelDirectory.open(model)
    assert ModelDirectory.open(model, verify=False).path == model
