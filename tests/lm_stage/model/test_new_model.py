"""Models of `emu3 init-lm`: their shape, and the shapes that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_stage.model.model_directory import ModelDirectory
from lm_stage.model.new_model import create_model
from lm_stage.model.options import NewModelOptions
from lm_stage.text.prompting import EMU35
from shared.errors import UsageError
from shared.tokens.layout import OPTIONAL_SURFACES
from tests.support.captioned_codes import write_codes

SMALL: dict[str, Any] = {
    "text_ids": 280,
    "hidden_size": 30,
    "intermediate_size": 40,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
}
NORMS: dict[str, Any] = {"head_dim": 16, "qk_norm": True}


def test_a_model_with_norms_of_queries_and_keys(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    options = NewModelOptions(str(write_codes(tmp_path / "codes")), str(tmp_path / "model"), **SMALL, **NORMS)
    config = ModelDirectory.open(create_model(options)).config
    assert (config.hidden_size, config.num_attention_heads, config.head_dim, config.qk_norm) == (30, 4, 16, True)
    assert (tmp_path / "model").is_symlink(), "an empty folder that is linked to is filled"


def test_a_model_for_sequences_of_emu35_has_its_control_tokens(tmp_path: Path) -> None:
    codes = str(write_codes(tmp_path / "codes"))
    options = NewModelOptions(codes, str(tmp_path / "model"), **SMALL, **NORMS, prompting="emu35")
    model = ModelDirectory.open(create_model(options))
    assert (model.prompting, model.layout) == (EMU35, model.text_tokenizer.layout)
    assert set(OPTIONAL_SURFACES) <= set(model.layout.control_ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 16, "prompting": "emu4"}, "--prompting: expected one of emu3, emu35, got 'emu4'"),
        ({"head_dim": 3}, "--head-dim: expected an even number from 2 up, got 3"),
        ({"head_dim": 0}, "--head-dim: expected an even number from 2 up, got 0"),
        ({}, "--hidden-size: expected an even multiple of --heads 4, got 30; or give --head-dim"),
        ({"head_dim": 1 << 30}, "parameters, expected at most 4e"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NewModelOptions("codes", "model", **SMALL, **changes)
