"""The prompting that a model needs, from its token layout, its decoder and its vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.model.model_directory import ModelDirectory
from lm_stage.model.prompting_choice import choose_prompting
from lm_stage.text.prompting import EMU3, EMU35, PLAIN
from shared.errors import CheckpointError
from shared.tokens.layout import OPTIONAL_SURFACES
from tests.support.models import write_language_model
from tests.support.token_layouts import REAL

ROLES = {"bss": 151746, "ess": 151747, "bog": 151706, "eog": 151707, "boc": 151696, "eoc": 151697}
VOCABULARY = replace(REAL, **ROLES)  # that of Emu3 as well as of Emu3.5


def test_published_checkpoints_differ_by_the_norms_of_their_decoder() -> None:
    """Their configs name no BSS, and both vocabularies have it."""
    assert choose_prompting("auto", REAL, False, lambda: VOCABULARY, "m") == (PLAIN, REAL)
    assert choose_prompting("auto", REAL, True, lambda: VOCABULARY, "m") == (EMU35, VOCABULARY)
    assert choose_prompting("auto", REAL, True, lambda: REAL, "m") == (PLAIN, REAL)
    assert choose_prompting("auto", REAL, True, lambda: None, "m") == (PLAIN, REAL)


def test_a_layout_with_bss_is_that_of_emu35() -> None:
    with_bss = replace(REAL, bss=151746, ess=151747)
    assert choose_prompting("auto", with_bss, False, lambda: None, "m") == (EMU35, with_bss)
    assert choose_prompting("auto", with_bss, False, lambda: VOCABULARY, "m") == (EMU35, VOCABULARY)


def test_a_given_name_decides() -> None:
    assert choose_prompting("emu3", VOCABULARY, True, lambda: VOCABULARY, "m") == (EMU3, VOCABULARY)
    assert choose_prompting("emu35", REAL, False, lambda: VOCABULARY, "m") == (EMU35, VOCABULARY)
    with pytest.raises(CheckpointError, match="m: --prompting emu35 needs bss"):
        choose_prompting("emu35", REAL, False, lambda: REAL, "m")


@pytest.mark.parametrize("has_layout", [True, False])
def test_the_directory_of_a_model_of_emu35(tmp_path: Path, has_layout: bool) -> None:
    path = write_language_model(tmp_path / "model", 64, roles=tuple(OPTIONAL_SURFACES), qk_norm=not has_layout)
    if not has_layout:  # as in a published config
        config = json.loads((path / "config.json").read_text())
        layout = {name: one for name, one in config["token_layout"].items() if name not in OPTIONAL_SURFACES}
        (path / "config.json").write_text(json.dumps({**config, "token_layout": layout}))
    model = ModelDirectory.open(path)
    assert (model.prompting, model.layout) == (EMU35, model.text_tokenizer.layout)
    assert ModelDirectory.open(path, prompting="plain").prompting == PLAIN


def test_the_directory_of_a_model_of_emu3(small_lm: Path) -> None:
    model = ModelDirectory.open(small_lm)
    assert (model.prompting, model.layout.bss) == (PLAIN, None)
    with pytest.raises(CheckpointError, match="emu35 needs bss"):
        ModelDirectory.open(small_lm, prompting="emu35")
