"""Videos through the real commands: odd files, kills inside a unit of clips, and decoded files."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from shared.dataset.dataset import Dataset
from tests.support.command import (
    ENCODE,
    MODEL,
    ONE_UNIT,
    SMALL_UNITS,
    emu3_here,
    encode,
    finish,
    keep_graphs,
    leftovers,
    start,
    verified_digest,
    wait_until,
)
from tests.support.disturbed_runs import problems, steps
from tests.support.small_sources import gif, movie, png
from tests.support.step_by_step import stand_in_tokenizer

CLIPS = ("--clip-frames", "4", "--fps", "6")  # a film of twelve frames per second gives one clip per eight frames
GRAPHS = keep_graphs("encoder of images and clips")  # the image of the canary is the first to be encoded


def sound_only() -> bytes:
    """Return an mp4 that holds one second of silence."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, two films, animations, and files that are not videos; tests must not modify it."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(3):
        (folder / f"picture-{number}.png").write_bytes(png(number))
    (folder / "film.mp4").write_bytes(movie(48, fps=12))  # four seconds: six clips of four frames
    (folder / "film.txt").write_text("what moves")
    (folder / "short.mp4").write_bytes(movie(8, fps=12, seed=1))
    (folder / "moving.gif").write_bytes(gif(8))  # 0.8 s: 4 frames of 4.8 at six a second
    (folder / "still.gif").write_bytes(gif(1))
    (folder / "sound.mp4").write_bytes(sound_only())
    whole = movie(48, fps=12, seed=2)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.mp4").write_bytes(b"garbage" * 500)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def unbroken(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of one undisturbed run; tests must not modify it."""
    dataset = tmp_path_factory.mktemp("unbroken") / "dataset"
    encode(media, dataset, *SMALL_UNITS, *CLIPS, **GRAPHS)
    return dataset


def test_rows_and_reasons_of_a_mixed_folder(unbroken: Path) -> None:
    opened = Dataset.open(unbroken)
    records = list(opened.commit_records())
    reasons = {refusal.key: refusal.reason for record in records for refusal in opened.refusals(record)}
    rows = {row.key: row for record in records for row in opened.rows(record)}
    cut = {key for key in {**rows, **reasons} if key.startswith("cut#")}
    assert cut == {f"cut#{number:05d}" for number in range(6)}, "its header promises six clips"
    assert {reasons[key] for key in cut & set(reasons)} == {"truncated"}, "at least the last clip cannot be read"
    assert {key: reason for key, reason in reasons.items() if key not in cut} == {
        "sound": "no_video",
        "garbage": "not_a_video",
        "empty": "empty",
    }
    clips = [f"film#{number:05d}" for number in range(6)]
    assert set(rows) - cut == {*clips, "short", "moving", "still", "picture-0", "picture-1", "picture-2"}
    for number, key in enumerate(clips):
        row = rows[key]
        assert (row.kind, row.codes_THW.shape, row.text, row.src_uri) == ("video", (1, 2, 3), "what moves", "film.mp4")
        assert (row.fps, row.frame_start, row.frame_stride, row.src_h, row.src_w) == (6.0, 4 * number, None, 16, 24)
    assert len({rows[key].src_sha256 for key in clips}) == 1
    assert (rows["still"].kind, rows["moving"].kind, rows["moving"].fps) == ("image", "video", 6.0)
    assert verified_digest(unbroken)
    assert leftovers(unbroken) == []


def test_killed_inside_a_unit_of_clips(media: Path, unbroken: Path, tmp_path: Path) -> None:
    """All clips are in one unit, the first to be encoded; the kill comes after it is claimed, while MindSpore runs."""
    dataset = tmp_path / "dataset"
    process = start("encode", media, dataset, *ENCODE, *ONE_UNIT, *CLIPS)
    wait_until((dataset / "canary.json").is_file, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process).returncode == -signal.SIGKILL
    assert Dataset(dataset).committed_units() == []
    encode(media, dataset, *ONE_UNIT, *CLIPS, **GRAPHS)
    assert verified_digest(dataset) == verified_digest(unbroken), "units of another size give the same digest"
    assert leftovers(dataset) == []


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    (folder / "film.mp4").write_bytes(movie(48, fps=12))
    (folder / "picture.png").write_bytes(png(0))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("disturbance", "allowed"), [("kill", {-9, 0}), ("SIGTERM", {75, 0})])
def test_disturbed_at_every_step(disturbance: str, allowed: set[int], few: Path, tmp_path: Path) -> None:
    """Six clips in two units and a picture, encoded by a stand-in, give the same files in the end."""
    options = ("--unit-rows", "4", "--quality-samples", "0", "--reader-threads", "1")
    lines = steps(
        disturbance, tmp_path / "work", None, "encode", few, "{}", *MODEL, "--resize", "none", *options, *CLIPS
    )
    assert problems(lines, allowed) == []


def test_decoded_to_mp4_with_the_recorded_rate(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tokenizer(monkeypatch)
    out = tmp_path / "out"
    printed = emu3_here("decode", unbroken, out, *MODEL)
    rows = sum(record.rows for record in Dataset(unbroken).commit_records())
    assert f"{rows} files written, 0 already present" in printed
    with av.open(str(out / "film#00000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.width, stream.height) == (6, 24, 16)
        assert sum(1 for _ in container.decode(stream)) == 4
    for name in ("picture-0.png", "still.png"):
        with Image.open(out / name) as picture:
            assert picture.size == (24, 16)
