"""Skipped samples: counted, summarized and listed, with the damage that all processes found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import MixtureEntry
from lm_stage.data.skipped import SkippedSamples
from tests.support.sft_samples import image_row, small_builder, write_dataset


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    """Images and questions about them; one row without a caption, one too long."""
    rows = [image_row(0, text="a pear"), image_row(1, text=None), image_row(2, text="xyz " * 60)]
    codes = str(write_dataset(tmp_path / "codes", [rows]))
    return Mixture([MixtureEntry(codes), MixtureEntry(codes, "understand")], small_builder(), 120)


def listed(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "left_out.jsonl").read_text().splitlines()]


def test_samples_are_summarized_and_listed(mixture: Mixture, tmp_path: Path) -> None:
    skipped, path = SkippedSamples(tmp_path, 0, [mixture]), mixture.entries[0].path
    assert skipped.too_long == 2
    assert list(skipped.summary()) == [
        f"{path}: 1 samples are longer than a row of 120 tokens",
        f"{path}: 1 of 3 samples have no caption: trained without one",
        f"{path}: 1 samples are longer than a row of 120 tokens",
        f"{path}: 1 rows without an answer are skipped",
    ]
    skipped.write()
    lines = listed(tmp_path)
    assert [(line["key"], line["reason"].partition(" ")[2]) for line in lines] == [
        ("k2", "tokens, a row has 120"),
        ("k2", "tokens, a row has 120"),
        ("k1", "answer"),
    ]


def test_damage_survives_a_restart_and_is_merged_over_processes(mixture: Mixture, tmp_path: Path) -> None:
    for rank, reason in ((0, "b"), (1, "a"), (1, "b"), (1, "b")):
        SkippedSamples(tmp_path, rank, [mixture]).add_damaged(reason)
    skipped = SkippedSamples(tmp_path, 0, [mixture])
    assert skipped.damaged() == ["a", "b"]
    skipped.write()
    assert listed(tmp_path)[-2:] == [{"reason": "a"}, {"reason": "b"}]
