"""The decode job as the command runs it: exit codes and last lines, and folders that it may write into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from shared.codec import Codec
from shared.dataset.commit import UnitResult
from tests.support import handmade, sequences
from tests.support.command import MODEL
from vq_stage.decode.output_files import RECORD_NAME, picture_path


class BlackTokenizer:
    """Decodes all codes to black images."""

    spatial_factor = 8

    def decode_images(self, codes_BHW: np.ndarray) -> np.ndarray:
        count, h, w = codes_BHW.shape
        return np.zeros((count, 8 * h, 8 * w, 3), np.uint8)


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    load = cast(Any, lambda worker: BlackTokenizer())
    monkeypatch.setattr("vq_stage.decode.worker.DecodeWorker._loaded_tokenizer", load)


def decode(dataset: Path, out: Path) -> Result:
    return CliRunner().invoke(main, ["decode", str(dataset), str(out), *MODEL])


def last_line(result: Result) -> str:
    return result.stderr.splitlines()[-1]


def test_a_folder_with_files_of_the_system_only_is_used(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "@eaDir").mkdir(parents=True)
    (out / ".DS_Store").touch()
    result = decode(handmade.make(tmp_path / "codes").root, out)
    assert (result.exit_code, "3 files written, 0 already present" in last_line(result)) == (0, True), result.output


@pytest.mark.parametrize("name", ["notes.txt", "picture.png"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).touch()
    result = decode(handmade.make(tmp_path / "codes").root, tmp_path / "out")
    assert (result.exit_code, name in last_line(result), "new folder" in last_line(result)) == (2, True, True)


def test_a_file_is_no_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    result = decode(handmade.make(tmp_path / "codes").root, tmp_path / "out")
    assert (result.exit_code, "expected a folder" in last_line(result)) == (2, True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"\xff"])
def test_a_damaged_record_of_the_folder_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    dataset = handmade.make(tmp_path / "codes").root
    assert decode(dataset, tmp_path / "out").exit_code == 0
    (tmp_path / "out" / RECORD_NAME).write_bytes(content)
    result = decode(dataset, tmp_path / "out")
    assert (result.exit_code, "remove it" in last_line(result)) == (1, True), result.output


def test_a_dataset_without_rows_is_not_success(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "codes", [])
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(0)]), plan)
    result = decode(dataset.root, tmp_path / "out")
    assert (result.exit_code, "has no rows" in last_line(result)) == (1, True), result.output


@pytest.mark.parametrize("valid", [0, 1])
def test_rows_without_an_image_are_counted_by_reason(tmp_path: Path, valid: int) -> None:
    """Without any image the command fails."""
    rows = [sequences.sequence(index, f"good-{index}") for index in range(valid)]
    rows += [sequences.broken(10 + index, f"bad-{index}") for index in range(2)]
    dataset = sequences.write(tmp_path / "codes", [rows], codec=Codec(None, handmade.CODEBOOK_SIZE, 8, 4))
    result = decode(dataset.root, tmp_path / "out")
    assert (result.exit_code, result.stderr.count("not decoded")) == (0 if valid else 1, 2), result.output
    assert last_line(result).endswith("row 0, offset 1: expected a visual token (2)")
    assert "2 rows without an image" in result.stderr


def test_missing_datasets_exit_with_2(tmp_path: Path) -> None:
    for command in ("decode", "repair", "inspect", "verify", "seal", "export"):
        arguments = [str(tmp_path / "nowhere"), *([str(tmp_path / "out")] if command in ("decode", "export") else [])]
        result = CliRunner().invoke(main, [command, *arguments])
        assert (command, result.exit_code) == (command, 2), result.output
        assert "nowhere" in last_line(result)


@pytest.mark.parametrize("keys", [("a", "A"), ("caf\u00e9", "cafe\u0301")])
def test_keys_that_differ_in_case_only_are_never_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, str]
) -> None:
    """Where the file system tells them apart there are two files, elsewhere the command refuses."""
    dataset = handmade.make(tmp_path / "codes", keys).root
    assert decode(dataset, tmp_path / "out").exit_code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    monkeypatch.setattr("vq_stage.decode.job.ignores_case", lambda out: True)
    result = decode(dataset, tmp_path / "other")
    assert (result.exit_code, "another file system" in last_line(result)) == (2, True)


def test_keys_that_are_too_long_for_a_path_stay_distinct(tmp_path: Path) -> None:
    deep = "a/" * 1500
    result = decode(handmade.make(tmp_path / "codes", [f"{deep}x", f"{deep}y", f"{deep}x/y"]).root, tmp_path / "out")
    assert (result.exit_code, len(list((tmp_path / "out").rglob("*.png")))) == (0, 3), result.output


def test_pictures_and_videos_never_share_a_path() -> None:
    out = Path("out")
    for suffix in ("mp4", "webm", "webp"):
        assert picture_path(out, "film", suffix) not in picture_path(out, f"film.{suffix}/picture", "png").parents
    frame = picture_path(out, "film", "frames") / "000003.png"
    assert picture_path(out, "film.frames/000003", "png") != frame
