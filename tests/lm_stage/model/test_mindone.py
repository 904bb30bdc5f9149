"""mindone's decoder behind our interface: same logits and images as the golden data, and its refusals.

mindone runs once, in a process of its own, because mint is patched there: see `tests/support/mindone_kernels.py`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_stage import LanguageModel
from lm_stage.model.config import DecoderConfig
from lm_stage.model.mindone import build_emu3
from shared.errors import CheckpointError, DeviceError
from shared.tokens.grid_formats import IMAGE
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import grid_tokens
from tests.support.mindone_kernels import run_probe
from tests.support.mindone_language_probe import CLASSES, IDS, STEPS, golden_sequence
from tests.support.model_bases import conditional_base, save_again

TOLERANCE = 1e-3  # of logits; measured 1.8e-5


@pytest.fixture(scope="module")
def golden(golden_lm: Path) -> dict[str, np.ndarray]:
    with np.load(golden_lm / "expected.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def layout(golden_lm: Path) -> TokenLayout:
    return TokenLayout.from_mapping(json.loads((golden_lm / "expected.json").read_text())["layout"])


@pytest.fixture(scope="module")
def tied_lm(golden_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with its embedding as output head."""
    directory = tmp_path_factory.mktemp("tied") / "lm"
    shutil.copytree(golden_lm, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(directory / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def damaged_lm(golden_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with one tensor renamed and one shortened."""
    directory = tmp_path_factory.mktemp("damaged") / "lm"
    shutil.copytree(golden_lm, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.gain"] = tensors.pop("model.norm.weight")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].copy()
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def saved_models(small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as a run saves them, in directories with the names of their classes."""
    directory = tmp_path_factory.mktemp("saved")
    bases = small_lm, conditional_base(small_lm, directory / "base")
    for base, name in zip(bases, CLASSES):
        save_again(base, directory / name)
    return directory


@pytest.fixture(scope="module")
def mindone_run(
    golden_lm: Path, tied_lm: Path, damaged_lm: Path, saved_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """What mindone computes for the golden sequences and the first golden prompt."""
    outputs = tmp_path_factory.mktemp("mindone") / "outputs.npz"
    return run_probe("mindone_language_probe", golden_lm, tied_lm, damaged_lm, saved_models, outputs=outputs)


def test_logits_equal_upstream(mindone_run: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(mindone_run["logits"], golden["logits_0"], atol=TOLERANCE, rtol=0)


def test_cached_steps_equal_upstream(
    mindone_run: dict[str, np.ndarray], golden: dict[str, np.ndarray], layout: TokenLayout
) -> None:
    steps = mindone_run["steps"]
    for row in (0, 1):
        expected = golden[f"logits_{row}"][STEPS[:, row], layout.first_visual_token : layout.end_of_visual]
        np.testing.assert_allclose(steps[:, row], expected, atol=TOLERANCE, rtol=0)
    assert not steps[:, 2].any(), "a row that was never filled should have logits of 0"


def test_a_position_that_leaves_a_gap_is_refused(mindone_run: dict[str, np.ndarray]) -> None:
    assert str(mindone_run["gap"]) == "row 0: expected a position up to 3, got 4"


def test_a_greedy_image_with_guidance_equals_upstream(
    mindone_run: dict[str, np.ndarray], golden: dict[str, np.ndarray], layout: TokenLayout
) -> None:
    tokens = [*grid_tokens(mindone_run["codes"][:1], layout, IMAGE), layout.eos]
    np.testing.assert_array_equal(tokens, golden["tokens_0"])


def test_a_tied_model_gives_the_same_logits_as_ours(
    mindone_run: dict[str, np.ndarray], golden_lm: Path, tied_lm: Path, layout: TokenLayout
) -> None:
    ours = LanguageModel.from_pretrained(tied_lm, device="cpu", layout=layout)
    expected = ours.logits(golden_sequence(golden_lm, 0))
    np.testing.assert_allclose(mindone_run["tied_logits"], expected, atol=TOLERANCE, rtol=0)


def test_checkpoint_that_does_not_fit_is_refused_by_tensor_name(mindone_run: dict[str, np.ndarray]) -> None:
    refusal = str(mindone_run["refusal"])
    assert "missing model.norm.weight" in refusal
    assert "extra model.norm.gain" in refusal
    assert "lm_head.weight: expected shape (820, 128), got (819, 128)" in refusal


@pytest.mark.parametrize("name", CLASSES)
def test_mindone_loads_saved_models_by_its_usual_call(
    name: str, mindone_run: dict[str, np.ndarray], saved_models: Path
) -> None:
    ours = LanguageModel.from_pretrained(saved_models / name, device="cpu").logits(IDS)
    np.testing.assert_allclose(mindone_run[name], ours, atol=TOLERANCE, rtol=0)  # measured 3.6e-6


@pytest.fixture
def no_mindone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of mindone fails, whether or not it was imported before."""
    for name in ("mindone", "mindone.transformers.models.emu3.modeling_emu3"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_mindone")
def test_cpu_is_refused_with_the_reason_before_mindone_is_imported(golden_lm: Path, layout: TokenLayout) -> None:
    with pytest.raises(DeviceError, match=r"mint.*not registered on CPU.*--backend native"):
        LanguageModel.from_pretrained(golden_lm, device="cpu", layout=layout, backend="mindone")


@pytest.mark.usefixtures("no_mindone")
def test_norms_of_queries_and_keys_are_refused(golden_emu35: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mindone's Emu3 has no norms.*--backend native"):
        build_emu3(DecoderConfig.from_directory(golden_emu35))


@pytest.mark.usefixtures("no_mindone")
def test_missing_mindone_is_a_device_error(golden_lm: Path) -> None:
    with pytest.raises(DeviceError, match=r"pip check.*--backend native"):
        build_emu3(DecoderConfig.from_directory(golden_lm))
