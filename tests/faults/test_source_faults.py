"""Whole commands on folders as people have them; a stand-in for the model makes them quick."""

from __future__ import annotations

import os
from pathlib import Path

import click.testing
import pytest

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from tests.support.command import MODEL
from tests.support.small_folders import fill
from tests.support.step_by_step import stand_in_tokenizer


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tokenizer(monkeypatch)


def encode(source: object, dataset: Path, exit_code: int = 0) -> set[str]:
    """Encode with `emu3 encode` and return the keys of all rows of the dataset."""
    arguments = ["encode", str(source), str(dataset), *MODEL, "--resize", "none", "--unit-rows", "4"]
    done = click.testing.CliRunner().invoke(main, arguments)
    assert done.exit_code == exit_code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    if not (dataset / "plan.arrow").exists():
        return set()
    opened = Dataset.open(dataset)
    return {row.key for record in opened.commit_records() for row in opened.rows(record)}


@pytest.mark.parametrize("names", [["a.tar", "b.tar"], ["t.parquet"], ["0.png", "1.png"], ["a.tar", "preview.png"]])
@pytest.mark.parametrize("place", ["codes", "sub/codes", "."])
def test_a_dataset_inside_its_source(names: list[str], place: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", *names)
    first = encode(source, source / place)
    assert len(first) >= 1
    assert encode(source, source / place) == first
    fill(source, *names, names[0].replace(".", "2."))
    grown = encode(source, source / place)
    assert grown > first


def test_decoded_files_inside_the_source_are_not_encoded(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", "0.png", "1.png")
    keys = encode(source, tmp_path / "codes")
    fill(source, "out/.DS_Store", "out/Thumbs.db")
    decoded = click.testing.CliRunner().invoke(main, ["decode", str(tmp_path / "codes"), str(source / "out"), *MODEL])
    assert decoded.exit_code == 0, decoded.output
    assert len(list((source / "out").glob("*.png"))) == 2
    assert encode(source, tmp_path / "codes") == keys


def test_special_files_are_quarantined_or_refused_at_once(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", "0.png", "1.png")
    os.mkfifo(source / "pipe.png")
    (source / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(source / "0.txt")
    (source / "loop").symlink_to("loop")
    assert encode(source, tmp_path / "codes") == {"1"}
    for name in ("pipe.png", "zero.png"):
        encode(source / name, tmp_path / "other", exit_code=2)
