"""What people give in place of a model directory is answered with what they probably mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lm_stage.model.model_directory import ModelDirectory, model_path
from lm_stage.model.weights import read_weights
from shared.errors import CheckpointError
from tests.support.model_bases import published_base
from tests.support.padded import pad_vocabulary


@pytest.fixture
def run(small_lm: Path, tmp_path: Path) -> Path:
    """The directory of a run with a model, an adapter and a checkpoint."""
    run = tmp_path / "run"
    for name in ("model", "checkpoints/step-00000002"):
        shutil.copytree(small_lm, run / name)
    (run / "options.json").write_text("{}")
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text("{}")
    return run


def test_a_run_an_adapter_and_checkpoints_lead_to_the_model(run: Path) -> None:
    for given in (run, run / "adapter"):
        with pytest.raises(CheckpointError, match=rf"{given}: .*; give {run}/model"):
            model_path(given)
    with pytest.raises(CheckpointError, match=rf"; give {run}/checkpoints/step-00000002"):
        model_path(run / "checkpoints")
    shutil.rmtree(run / "model")
    with pytest.raises(CheckpointError, match=rf"the directory of a run; give {run}/checkpoints/step-00000002"):
        model_path(run)
    with pytest.raises(CheckpointError, match="got an adapter; merge it"):
        model_path(run / "adapter")


def test_names_on_the_hub_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"hf download BAAI/Emu3-Gen --local-dir Emu3-Gen"):
        model_path("BAAI/Emu3-Gen")
    with pytest.raises(CheckpointError, match="no such directory"):
        model_path(tmp_path / "nowhere")


def test_files_datasets_and_folders_of_models_are_named(small_lm: Path, tmp_path: Path) -> None:
    shutil.copytree(small_lm, tmp_path / "models" / "small")
    with pytest.raises(CheckpointError, match=rf"got a file; give {tmp_path}/models/small"):
        model_path(tmp_path / "models" / "small" / "config.json")
    with pytest.raises(CheckpointError, match=rf"did you mean {tmp_path}/models/small\?"):
        model_path(tmp_path / "models")
    (tmp_path / "plan.arrow").touch()
    with pytest.raises(CheckpointError, match="got a dataset"):
        model_path(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_pointers_of_git_lfs_are_named(name: str, small_lm: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(small_lm, tmp_path / "model"))
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 123\n")
    with pytest.raises(CheckpointError, match=rf"{name}: Git LFS pointers .*git lfs pull"):
        model_path(model)


@pytest.mark.parametrize("form", ["config", "rows"])
@pytest.mark.parametrize("base", ["own", "published"])
def test_padded_vocabularies_are_accepted(form: str, base: str, small_lm: Path, tmp_path: Path) -> None:
    """The config counts the padding as tokens, or only the weights have it."""
    expected = ModelDirectory.open(small_lm)
    source = small_lm if base == "own" else published_base(small_lm, tmp_path / "base")
    model = pad_vocabulary(source, tmp_path / "padded", in_config=form == "config")
    opened = ModelDirectory.open(model)
    assert opened.layout == expected.layout
    rows = opened.config.vocab_size
    assert rows > expected.config.vocab_size if form == "config" else rows == expected.config.vocab_size
    assert read_weights(model)["lm_head.weight"].shape[0] == rows


def test_a_vocabulary_that_does_not_fit_is_refused(small_lm: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(small_lm, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 8}))
    with pytest.raises(CheckpointError, match="weights do not match"):
        ModelDirectory.open(model)


def test_optional_roles_may_be_missing_in_the_vocabulary_but_not_differ(small_lm: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(small_lm, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "token_layout": {**config["token_layout"], "bss": 5}}))
    opened = ModelDirectory.open(model)
    assert (opened.layout.bss, opened.text_tokenizer.layout.bss) == (5, None)
    described = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    described["added_tokens"].append({**described["added_tokens"][0], "id": 6, "content": "<|extra_100|>"})
    (model / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CheckpointError, match="different token layouts"):
        ModelDirectory.open(model)
    (model / "config.json").write_text(json.dumps(config))
    assert ModelDirectory.open(model).layout.bss is None, "the config decides which roles the model uses"
