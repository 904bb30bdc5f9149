"""`emu3 convert-lm` converts in both directions."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from lm_stage.model.weights import model_fingerprint
from pipelines.cli import main


def test_weights_are_converted_there_and_back(small_lm: Path, tmp_path: Path) -> None:
    weights, back = tmp_path / "weights", tmp_path / "back"
    there = CliRunner().invoke(main, ["convert-lm", str(small_lm), str(weights)])
    assert there.exit_code == 0
    assert f"weights for MindFormers written to {weights}" in there.output
    result = CliRunner().invoke(main, ["convert-lm", str(small_lm), str(back), "--weights", str(weights)])
    assert result.exit_code == 0
    assert f"model written to {back}" in result.output
    assert model_fingerprint(back) == model_fingerprint(small_lm)


def test_a_folder_that_is_in_use_is_refused(small_lm: Path) -> None:
    result = CliRunner().invoke(main, ["convert-lm", str(small_lm), str(small_lm)])
    assert result.exit_code == 2
    assert "expected a local directory that is empty" in result.output
