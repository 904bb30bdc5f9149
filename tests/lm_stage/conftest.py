"""Fixtures for tests of the language stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_stage import LanguageModel
from tests.support.golden_directory import write_golden_directory
from tests.support.golden_language import GoldenLanguageModel


@pytest.fixture(scope="session")
def golden(golden_lm: Path) -> GoldenLanguageModel:
    return GoldenLanguageModel.load(golden_lm)


@pytest.fixture(scope="session")
def golden_text(golden_emu35: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The golden decoder of Emu3.5 with a text vocabulary; see `write_golden_directory`."""
    return LanguageModel.from_pretrained(write_golden_directory(golden_emu35, tmp_path_factory.mktemp("lm") / "golden"))


@pytest.fixture(scope="session")
def emu35(golden_emu35: Path) -> GoldenLanguageModel:
    return GoldenLanguageModel.load(golden_emu35)
