"""`emu3 export`: the format decides which job runs and which flags it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from tests.support.sequence_exports import CODES, MODEL


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seq-length", "8"), "--seq-length: only with --format megatron or mindrecord"),
        (("--loss", "text", "--format", "parquet"), "--loss: only with --format megatron or mindrecord"),
        (("--shard-mb", "8", "--format", "megatron"), "--shard-mb: only with --format webdataset or parquet or pth"),
        (("--format", "megatron", "--epochs", "0"), "--epochs: expected at least 1, got 0"),
        (("--format", "pth", "codes"), "--format pth: expected one dataset, and OUT"),
        (("--format", "mindrecord", "--documents", "row"), "--documents: expected none with mindrecord"),
    ],
)
def test_flags_of_another_format_are_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = export(*arguments, "codes", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output


def test_rows_of_one_dataset(tmp_path: Path) -> None:
    result = export(CODES, tmp_path / "out", "--format", "parquet")
    assert result.exit_code == 0, result.output
    assert "12 rows in 1 files" in result.output
    assert (tmp_path / "out" / "codes-00000.parquet").is_file()


def test_sequences_of_a_mixture(tmp_path: Path) -> None:
    arguments = CODES, f"{CODES},task=understand", tmp_path / "out", "--format", "megatron", "--model", MODEL
    result = export(*arguments, "--seq-length", "61")
    assert result.exit_code == 0, result.output
    assert "documents of" in result.output
    assert "samples too long for a row" in result.output
    again = export(*arguments, "--seq-length", "61")
    assert "already present" in again.output
