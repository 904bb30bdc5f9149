"""The table of quarantine reasons lists exactly the codes that the source code uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import shared.dataset.quarantine_reasons as quarantine_reasons
from shared.dataset.quarantine_reasons import (
    FILE_REASONS,
    IMPORT_REASONS,
    LISTING_REASONS,
    MEDIA_REASONS,
    PROMPT_REASONS,
    QUARANTINE_REASONS,
)

ROOT = Path(__file__).parents[3]
PACKAGES = ("shared", "vq_stage", "lm_stage")
REFUSING = ("RefusedInput", "refused")  # calls whose first argument is a code


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def codes_of_refusals(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, code) of every refusal with a literal code."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in REFUSING:
                yield node.lineno, str(node.args[0].value)


def test_every_code_in_use_is_explained() -> None:
    found = [(path, line, code) for path, module in modules() for line, code in codes_of_refusals(module)]
    assert len(found) > 50, "the scan does not find the refusals"
    assert [one for one in found if one[2] not in QUARANTINE_REASONS] == []


def test_every_explained_code_is_in_use() -> None:
    table = Path(quarantine_reasons.__file__)
    strings = {
        node.value
        for path, module in modules()
        if path != table
        for node in ast.walk(module)
        if isinstance(node, ast.Constant)
    }
    named = {value for name, value in vars(quarantine_reasons).items() if name.isupper() and isinstance(value, str)}
    assert set(QUARANTINE_REASONS) - strings - named == set()


def test_no_code_is_listed_twice_and_explanations_are_sentences() -> None:
    groups = (LISTING_REASONS, FILE_REASONS, MEDIA_REASONS, PROMPT_REASONS, IMPORT_REASONS)
    assert sum(map(len, groups)) == len(QUARANTINE_REASONS)
    for code, explanation in QUARANTINE_REASONS.items():
        assert code.isidentifier()
        assert explanation[0].isupper()
        assert explanation.endswith(".")
