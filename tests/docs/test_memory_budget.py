"""The memory that docs/ascend.md promises is what the formula computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_stage.model.config import DecoderConfig
from tests.benchmarks.memory_budget import (
    GIBIBYTE,
    Training,
    adapter_parameters,
    generation_gib,
    page,
    parameters,
    state_bytes,
)

PAGE = Path(__file__).parents[2] / "docs" / "ascend.md"
PUBLISHED = DecoderConfig()


def test_the_page_shows_what_the_formula_prints() -> None:
    assert f"<!-- memory -->\n\n{page()}\n\n<!-- end of memory -->" in PAGE.read_text(encoding="utf-8"), (
        "run `python -m tests.benchmarks.memory_budget` and copy its output"
    )


def test_parts_that_can_be_computed_by_hand() -> None:
    assert (
        parameters(PUBLISHED) == 2 * 184622 * 4096 + 32 * (2 * 4096**2 + 2 * 1024 * 4096 + 3 * 4096 * 14336) + 65 * 4096
    )
    assert adapter_parameters(PUBLISHED, 1) == 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024))
    P = parameters(PUBLISHED)
    assert state_bytes(PUBLISHED, Training()) == 16 * P
    assert state_bytes(PUBLISHED, Training(cards=8, zero=True)) == 2 * P + 2 * P
    row = generation_gib(PUBLISHED, 2) - generation_gib(PUBLISHED, 1)
    assert row == pytest.approx(8256 * 32 * 2 * 1024 * 2 / GIBIBYTE + 3 * 4 * 32768 / GIBIBYTE)
