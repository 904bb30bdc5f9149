"""Checkpoints are replaced as a whole, limited in number, swept, and verified before they are resumed from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lm_stage.model.checksums import CHECKSUMS_FILE
from lm_stage.training.checkpoints import Checkpoints
from lm_stage.training.run_directory import OPTIONS_COPY, write_options
from shared.errors import CheckpointError
from tests.support.directories import write_directory

OLD = {"config.json": b"old", "weights": b"old weights", "gone": b"only in the old one"}
NEW = {"config.json": b"new", "weights": b"new weights " * 1000}


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(step, {"config.json": b"{}", "model.safetensors": f"weights {step}".encode()})


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "model"
    write_directory(directory, OLD)
    assert files(directory) == OLD
    write_directory(directory, NEW)
    assert files(directory) == NEW
    assert names(directory.parent) == ["model"]


def fail_at(call: int, original: Any) -> Any:
    """Return `original` with a full disk at one of its calls, counted from 0."""
    calls = iter(range(1000))

    def fail_once(*arguments: Any) -> Any:
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    return fail_once


@pytest.mark.parametrize("call", range(2 * len(NEW)))  # one for every file and one for its directory
@pytest.mark.parametrize("before", [OLD, None], ids=["old", "nothing"])
def test_a_failure_before_the_last_file_is_safe_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes] | None, call: int
) -> None:
    directory = tmp_path / "run" / "model"
    if before:
        write_directory(directory, before)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail_at(call, os.fsync))
        with pytest.raises(OSError, match="No space left"):
            write_directory(directory, NEW)
    assert names(directory.parent) == (["model"] if before else [])
    assert not before or files(directory) == before
    write_directory(directory, NEW)
    assert files(directory) == NEW


def test_an_interrupted_write_leaves_no_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "model"
    write_directory(directory, OLD)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_directory(directory, NEW)
    assert names(tmp_path) == ["model"]
    assert files(directory) == OLD


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, seen = tmp_path / "model", []
    original = os.fsync

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((path.relative_to(tmp_path).parts, directory.exists()))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", record)
        write_directory(directory, NEW)
    inside = [(parts, is_named) for parts, is_named in seen if parts]
    assert {parts[1].split(".")[0] for parts, _ in inside if len(parts) == 2} == {"config", "weights"}
    assert not any(is_named for _, is_named in inside)
    assert seen[-1] == ((), True), "the rename itself comes last"


def test_a_rename_that_fails_leaves_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "run" / "model"
    write_directory(directory, OLD)
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fail_at(1, os.rename))
        with pytest.raises(OSError, match="No space left"):
            write_directory(directory, NEW)
    assert files(directory) == OLD
    assert names(directory.parent) == ["model"]


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [1000]), (2, [200, 1000]), (3, [30, 200, 1000]), (9, [4, 30, 200, 1000])]
)
def test_the_newest_few_are_kept(tmp_path: Path, keep: int, kept: list[int]) -> None:
    checkpoints = Checkpoints(tmp_path / "run", keep)
    for step in (4, 30, 200, 1000):
        save(checkpoints, step)
        assert checkpoints.newest() == checkpoints.root / f"step-{step:08d}"
    assert names(checkpoints.root) == [f"step-{step:08d}" for step in kept]


def test_old_checkpoints_are_deleted_after_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 1)
    old = save(checkpoints, 1)
    before = files(old)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail_at(3, os.fsync))
        with pytest.raises(OSError, match="No space left"):
            save(checkpoints, 2)
    assert names(checkpoints.root) == [old.name]
    assert checkpoints.newest() == old
    assert files(old) == before


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 2)
    assert checkpoints.newest() is None
    checkpoints.sweep()
    assert not checkpoints.root.exists(), "reading creates nothing"
    checkpoints.root.mkdir(parents=True)
    assert checkpoints.newest() is None


def test_leftovers_of_a_killed_run_are_ignored_and_swept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 2)
    whole = save(checkpoints, 5)
    before = files(whole)
    for name in ("step-00000009.123-0a1b2c3d.tmp", "step-00000005.77-ffffffff.tmp"):
        (checkpoints.root / name).mkdir()
        (checkpoints.root / name / "model.safetensors").write_bytes(b"half")
    (checkpoints.root / "step-00000009-mine").mkdir()
    (checkpoints.root / "notes.tmp").mkdir()
    assert checkpoints.newest() == whole
    checkpoints.sweep()
    assert names(checkpoints.root) == ["notes.tmp", "step-00000005", "step-00000009-mine"]
    assert files(whole) == before
    assert checkpoints.newest() == whole


def test_other_directories_do_not_count_as_checkpoints_to_keep(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 2)
    save(checkpoints, 1)
    (checkpoints.root / "step-best").mkdir()
    for step in (2, 3):
        save(checkpoints, step)
    assert names(checkpoints.root) == ["step-00000002", "step-00000003", "step-best"]


def checkpoints_of_a_run(root: Path) -> Checkpoints:
    """Return checkpoints of steps 1 and 2, with the options of their run."""
    (root / "run").mkdir()
    write_options(root / "run", {"seed": 0})
    checkpoints = Checkpoints(root / "run", 3)
    for step in (1, 2):
        save(checkpoints, step)
    return checkpoints


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", OPTIONS_COPY, CHECKSUMS_FILE])
def test_one_flipped_bit_is_found_and_the_way_back_is_given(tmp_path: Path, name: str) -> None:
    checkpoints = checkpoints_of_a_run(tmp_path)
    first, second = checkpoints.all()
    assert checkpoints.newest_intact() == second
    size = (second / name).stat().st_size
    for byte in {0, size // 2, size - 1}:
        flip(second / name, byte)
        with pytest.raises(
            CheckpointError, match=rf"{second}.*{name}.*{first} is intact.*`mv {second} {tmp_path}/run/"
        ):
            checkpoints.newest_intact()
        flip(second / name, byte)
    assert checkpoints.newest_intact() == second
    flip(second / name, 0)
    second.rename(tmp_path / "run" / f"damaged-{second.name}")  # what the message says
    assert checkpoints.newest_intact() == first


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_a_missing_file_is_found_and_a_damaged_earlier_checkpoint_is_not_recommended(tmp_path: Path) -> None:
    checkpoints = checkpoints_of_a_run(tmp_path)
    first, second = checkpoints.all()
    (second / "model.safetensors").unlink()
    flip(first / "model.safetensors", 3)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing; no earlier checkpoint is intact"):
        checkpoints.newest_intact()


def test_checkpoints_without_checksums_are_used_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = checkpoints_of_a_run(tmp_path)
    newest = checkpoints.all()[-1]
    (newest / CHECKSUMS_FILE).unlink()
    assert checkpoints.newest_intact() == newest
    assert f"{newest}: has no {CHECKSUMS_FILE}" in capsys.readouterr().err


@pytest.mark.parametrize("call", range(0, 12))
def test_whenever_writing_fails_the_newest_checkpoint_is_intact(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = checkpoints_of_a_run(tmp_path)
    before = checkpoints.newest_intact()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail_at(call, os.fsync))
        try:
            save(checkpoints, 3)
        except OSError:
            assert checkpoints.newest_intact() in (before, checkpoints.root / "step-00000003")
        else:
            assert checkpoints.newest_intact() == checkpoints.root / "step-00000003"
