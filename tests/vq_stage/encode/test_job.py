"""The encode job as the command runs it: counts, exit codes, the listing report, and reads that do not end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from shared.jobs.file_locks import job_lock, try_lock
from tests.support.command import ENCODE
from tests.support.small_sources import png
from tests.support.stand_in import StandInWorker
from vq_stage.sources.media_source import MediaSource


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_stage.encode.job.EncodeWorker", StandInWorker)


def emu3(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def encode(source: Path, dataset: Path, *options: str) -> Result:
    return emu3("encode", source, dataset, *ENCODE, *options)


def last_line(result: Result) -> str:
    return result.stderr.splitlines()[-1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder of two pictures, the first with a caption, and a file that is no picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.png").write_bytes(png(index))
    (folder / "0.txt").write_text("a caption")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_the_last_line_counts_the_reasons(source: Path, tmp_path: Path) -> None:
    (source / "also_broken.png").write_bytes(b"neither")
    (source / "empty.png").touch()
    result = encode(source, tmp_path / "codes")
    assert result.exit_code == 0, result.output
    assert "2 rows encoded, 3 quarantined" in last_line(result)
    assert last_line(result).endswith(": not_an_image (2), empty (1)")


def test_captions_are_reported_after_planning(source: Path, tmp_path: Path) -> None:
    expected = "captions: 2 inputs without a caption (first: 1.png)"
    for result in (encode(source, tmp_path / "codes"), emu3("plan", source, "--resize", "none")):
        assert result.stderr.splitlines().count(expected) == 1


def test_a_source_that_is_listed_twice_is_counted_once(source: Path, tmp_path: Path) -> None:
    encode(source, tmp_path / "codes")
    (source / "2.png").write_bytes(png(2))
    result = encode(source, tmp_path / "codes", "--retry-quarantined", "not_an_image")
    assert "captions: 1 inputs without a caption (first: 2.png)" in result.stderr.splitlines()


def test_a_run_that_only_refuses_fails(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"no picture")
    encoded, planned = encode(tmp_path / "bad", tmp_path / "codes"), emu3("plan", tmp_path / "bad")
    assert (encoded.exit_code, planned.exit_code) == (1, 1)
    assert last_line(encoded).endswith("not_an_image (1)")
    assert last_line(planned).endswith("not_an_image (1)")
    assert encode(tmp_path / "bad", tmp_path / "codes").exit_code == 1, "there is nothing new, but still no row"


def test_new_inputs_that_are_all_refused_fail_and_nothing_new_is_success(source: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "codes"
    assert [encode(source, dataset).exit_code for _ in range(2)] == [0, 0]
    (source / "empty.png").touch()
    assert [encode(source, dataset).exit_code for _ in range(2)] == [1, 0]


def test_new_files_whose_content_is_known_are_success(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(png(0))
    result = encode(tmp_path / "pictures", tmp_path / "codes", "--duplicates", "once")
    assert (result.exit_code, "duplicate_content (1)" in last_line(result)) == (0, True)


def test_units_left_to_other_jobs_exit_with_75(source: Path, tmp_path: Path) -> None:
    dataset = Dataset(tmp_path / "codes")
    with job_lock(dataset.root):
        lock = try_lock(dataset.claim_path(0))
        assert lock is not None
        result = encode(source, dataset.root, "--unit-rows", "1")
        lock.release()
    assert result.exit_code == 75, result.output
    assert "1 units" in last_line(result)
    assert encode(source, dataset.root, "--unit-rows", "1").exit_code == 0


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_plan_and_encode_agree_on_bad_sources(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    encoded, planned = encode(tmp_path / name, tmp_path / "codes"), emu3("plan", tmp_path / name)
    assert (encoded.exit_code, planned.exit_code) == (2, 2)
    assert last_line(encoded).partition(": ")[2] == last_line(planned).partition(": ")[2]


@pytest.mark.parametrize("is_planned", [False, True], ids=["while planning", "while encoding"])
def test_an_input_that_is_not_read_in_time_is_quarantined(
    is_planned: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a mount that does not respond any more, whose reads never return."""
    never, opened, real_open = threading.Event(), [], MediaSource.open

    def open_blocking(self: MediaSource, uri: str, *locator: Any) -> Any:
        opened.append(uri)
        if uri == "1.png" and (not is_planned or opened.count(uri) == 2):
            never.wait()
        return real_open(self, uri, *locator)

    with monkeypatch.context() as blocked:
        blocked.setattr(MediaSource, "open", open_blocking)
        result = encode(source, tmp_path / "codes", "--read-timeout", "0.5")
        never.set()
    assert result.exit_code == 0, result.output
    assert "1 rows encoded, 2 quarantined" in last_line(result)
    assert "read_timeout (1)" in last_line(result)
    retried = encode(source, tmp_path / "codes", "--retry-quarantined", "read_timeout")
    assert "1 rows encoded, 0 quarantined" in last_line(retried)
