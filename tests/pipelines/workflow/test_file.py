"""References in a pipeline file."""

from __future__ import annotations

import pytest

from pipelines.workflow.file import referenced_names, substitute
from shared.errors import UsageError


def test_references_are_replaced_within_a_text() -> None:
    assert substitute("x", "${a}/model,${b}", {"a": "out", "b": 2}) == "out/model,2"
    assert substitute("x", "$a {b}", {}) == "$a {b}"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"step a: .{c}: no such variable, and .*; known are a, b"):
        substitute("step a", "${c}", {"a": "", "b": ""})


def test_names_are_found_in_all_values() -> None:
    assert referenced_names({"run": "sft", "datasets": ["${a}", "${b},weight=2"], "model": "${c}/model"}) == {
        "a",
        "b",
        "c",
    }
