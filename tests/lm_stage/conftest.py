"""Fixtures for tests of the language stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.golden_language import GoldenLanguageModel


@pytest.fixture(scope="session")
def golden(golden_lm: Path) -> GoldenLanguageModel:
    return GoldenLanguageModel.load(golden_lm)


@pytest.fixture(scope="session")
def emu35(golden_emu35: Path) -> GoldenLanguageModel:
    return GoldenLanguageModel.load(golden_emu35)
