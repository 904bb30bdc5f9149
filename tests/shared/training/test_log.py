"""The training log: entries that survive a resume, the plot, and the TensorBoard scalars."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from shared.training.log import TrainLog, _running_mean


def logged(directory: Path, steps: int, first: int = 0) -> TrainLog:
    """Write the log of a run that starts at step `first`."""
    log = TrainLog(directory, first)
    for step in range(first, steps):
        log.add(step=step, loss=8.0 / (step + 1), tokens=100)
    log.flush()
    return log


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "train_log.jsonl").read_text().splitlines()]


def write_lines(directory: Path, *entries: dict[str, Any]) -> None:
    (directory / "train_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def events(directory: Path) -> Iterator[Event]:
    """Yield the events of all files, the oldest first. A record is length, its checksum, data, its checksum."""
    for path in sorted((directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            [size] = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def scalars(directory: Path) -> list[tuple[str, int, float]]:
    return [(value.tag, event.step, value.simple_value) for event in events(directory) for value in event.summary.value]


def test_a_flushed_log_has_a_line_a_step(tmp_path: Path) -> None:
    log = logged(tmp_path, 3)
    assert [(entry["step"], entry["loss"], entry["tokens"]) for entry in lines(tmp_path)] == [
        (0, 8.0, 100),
        (1, 4.0, 100),
        (2, 8 / 3, 100),
    ]
    elapsed = [entry["elapsed_s"] for entry in lines(tmp_path)]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] >= 0
    log.add(step=3, loss=1.0)
    assert len(lines(tmp_path)) == 3, "written with a checkpoint only"
    log.flush()
    log.close()
    assert lines(tmp_path)[3]["loss"] == 1.0


@pytest.mark.parametrize("checkpoint", range(6))
def test_resume_drops_what_came_after_the_checkpoint(tmp_path: Path, checkpoint: int) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for directory in (unbroken, broken):
        directory.mkdir()
    logged(unbroken, 6).close()
    logged(broken, 5).close()
    log = TrainLog(broken, checkpoint)
    assert [entry["step"] for entry in log.entries] == list(range(min(5, checkpoint)))
    for step in range(checkpoint, 6):
        log.add(step=step, loss=8.0 / (step + 1), tokens=100)
    log.flush()
    log.close()
    found, expected = lines(broken), lines(unbroken)
    for entry in found + expected:
        del entry["elapsed_s"]
    assert found == expected


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second whenever it is read."""
    ticks = count(100.0)
    monkeypatch.setattr("shared.training.log.time", SimpleNamespace(monotonic=lambda: next(ticks), time=lambda: 0.0))


@pytest.mark.usefixtures("clock")
def test_time_continues_from_the_last_entry_kept(tmp_path: Path) -> None:
    write_lines(tmp_path, *({"step": step, "loss": 1.0, "elapsed_s": 1000.0 * (step + 1)} for step in range(3)))
    for first_step, elapsed_s in ((2, 2001.0), (0, 1.0)):
        log = TrainLog(tmp_path, first_step)
        log.add(step=first_step, loss=1.0)
        assert log.entries[-1]["elapsed_s"] == elapsed_s


@pytest.mark.usefixtures("clock")
def test_a_log_that_was_never_flushed_starts_empty(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 4)
    assert log.entries == []
    log.add(step=4, loss=1.0)
    assert log.entries[0]["elapsed_s"] == 1.0
    log.close()
    assert not list(tmp_path.iterdir()), "nothing is written before a checkpoint"


def test_a_failed_flush_leaves_the_old_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(tmp_path, 2)
    before = (tmp_path / "train_log.jsonl").read_bytes()
    log.add(step=2, loss=1.0)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    log.close()
    assert (tmp_path / "train_log.jsonl").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_damaged_lines_are_kept_beside_the_log_however_often_it_is_damaged(tmp_path: Path) -> None:
    logged(tmp_path, 3).close()
    for damaged in (b"first\xff", b"second\xff"):
        with (tmp_path / "train_log.jsonl").open("ab") as file:
            file.write(damaged + b"\n")
        assert len(TrainLog(tmp_path, 3).entries) == 3
    assert (tmp_path / "damaged-train_log.jsonl").read_bytes().count(b"\xff\n") == 2
    assert len(lines(tmp_path)) == 3


def test_tensorboard_has_every_number_once(tmp_path: Path) -> None:
    log = logged(tmp_path, 2)
    log.add(step=2, loss=0.5, held_out_loss=0.75, note="warm")
    log.flush()
    log.flush()
    log.close()
    found = sorted((tag, step, value) for tag, step, value in scalars(tmp_path) if tag != "elapsed_s")
    tokens = [("tokens", 0, 100.0), ("tokens", 1, 100.0)]
    assert found == [("held_out_loss", 2, 0.75), ("loss", 0, 8.0), ("loss", 1, 4.0), ("loss", 2, 0.5), *tokens]
    assert [step for tag, step, _ in scalars(tmp_path) if tag == "elapsed_s"] == [0, 1, 2]


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    logged(tmp_path, 4).close()
    [first] = (tmp_path / "tensorboard").iterdir()
    first.rename(first.with_name("first"))  # names go by the second, a real run takes longer to start
    logged(tmp_path, 5, first=2).close()
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [2], "TensorBoard forgets steps from here on"
    steps = [step for tag, step, _ in scalars(tmp_path) if tag == "loss"]
    assert steps == [0, 1, 2, 3, 2, 3, 4]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"step": 0, "loss": 1.0, "elapsed_s": 0.0}],
        [{"step": step, "loss": 1.0 / (step + 1), "elapsed_s": 0.0} for step in range(200)],
        [{"step": 0, "bad": 1, "elapsed_s": 0.0}, {"step": 1, "loss": 2.0, "held_out_loss": 3.0, "elapsed_s": 0.0}],
    ],
    ids=["nothing", "one step", "many", "bad step"],
)
def test_the_curve_is_a_picture(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    write_lines(tmp_path, *entries)
    TrainLog(tmp_path, 1000).draw(tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.format == "PNG"
        assert image.size == (880, 440)
        assert len(image.convert("RGB").getcolors(1 << 16) or []) > 3, "more than an empty sheet"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "train_log.jsonl"]


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}


def test_the_curve_shows_losses_and_what_evaluations_found(tmp_path: Path) -> None:
    losses = [{"step": step, "loss": 1.0 + step % 2, "elapsed_s": 0.0} for step in range(100)]
    write_lines(tmp_path, *losses)
    TrainLog(tmp_path, 100).draw(tmp_path / "without.png")
    write_lines(tmp_path, *losses[:-1], {**losses[-1], "held_out_loss": 1.5})
    TrainLog(tmp_path, 100).draw(tmp_path / "with.png")
    loss, mean, held_out = (0x9E, 0xCA, 0xE1), (0x08, 0x51, 0x9C), (0xD9, 0x48, 0x01)
    assert {mean, held_out} <= colours(tmp_path / "with.png")
    assert mean in colours(tmp_path / "without.png")
    assert held_out not in colours(tmp_path / "without.png")
    assert any(
        abs(r - loss[0]) + abs(g - loss[1]) + abs(b - loss[2]) < 30 for r, g, b in colours(tmp_path / "with.png")
    )


@given(st.lists(st.integers(-100, 100), max_size=30), st.integers(1, 8))
def test_a_running_mean_looks_back_only(values: list[int], window: int) -> None:
    found = _running_mean([float(value) for value in values], window)
    for index, mean in enumerate(found):
        part = values[max(0, index - window + 1) : index + 1]
        assert len(part) == min(window, index + 1)
        assert mean == pytest.approx(sum(part) / len(part))
    assert len(found) == len(values)
