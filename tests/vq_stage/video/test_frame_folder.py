"""Folders of numbered images as videos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from shared.codec import EMU3
from tests.support.small_videos import (
    HEIGHT,
    WIDTH,
    frame_number_of,
    gray_picture,
    refusal_reason,
    to_pixels,
)
from vq_stage.sources.files import open_file
from vq_stage.video.clips import Clip, ClipSampling, cut_clips, read_clip
from vq_stage.video.frame_folder import FrameFile, FrameFolder, natural_sort_key
from vq_stage.video.video_file import VideoInfo


def folder(tmp_path: Path, names: list[str], sizes: list[tuple[int, int]] | None = None) -> list[FrameFile]:
    for number, name in enumerate(names):
        height, width = sizes[number] if sizes else (HEIGHT, WIDTH)
        Image.fromarray(gray_picture(number, height, width)).save(tmp_path / name)
    return [FrameFile(path.name, partial(open_file, path)) for path in tmp_path.iterdir()]


def test_a_folder_of_numbered_images_is_a_video(tmp_path: Path) -> None:
    names = [f"frame{number}.png" for number in range(12)]
    video = FrameFolder(folder(tmp_path, names), fps=8.0)
    assert video.info == VideoInfo(HEIGHT, WIDTH, 8.0, 1.5, 12)
    for sampling, expected in [
        (ClipSampling(frames=4), list(range(12))),
        (ClipSampling(frames=4, fps=4), [0, 2, 4, 6]),
        (ClipSampling(frames=4, stride=3), [0, 3, 6, 9]),
    ]:
        clips = cut_clips(video.info, sampling, EMU3)
        found = [frame_number_of(frame) for clip in clips for frame in read_clip(video, clip, sampling, to_pixels)]
        assert found == expected


def test_frames_must_have_one_size_and_be_readable(tmp_path: Path) -> None:
    frames = folder(tmp_path, [f"{n}.png" for n in range(4)], [(48, 64), (48, 64), (48, 64), (64, 48)])
    sampling = ClipSampling(frames=4)
    clip = Clip(0, 4, 8.0, None)
    assert refusal_reason(lambda: read_clip(FrameFolder(frames, 8.0), clip, sampling, to_pixels)) == "bad_size"
    (tmp_path / "3.png").write_bytes(b"")
    assert refusal_reason(lambda: read_clip(FrameFolder(frames, 8.0), clip, sampling, to_pixels)) == "empty"
    (tmp_path / "3.png").unlink()
    assert refusal_reason(lambda: read_clip(FrameFolder(frames, 8.0), clip, sampling, to_pixels)) == "missing"
    assert refusal_reason(lambda: FrameFolder([], 8.0).info) == "too_short"


def test_natural_order_compares_numbers_by_value() -> None:
    names = ["frame10.png", "frame9.png", "frame009.png", "a.png", "2.png"]
    assert sorted(names, key=natural_sort_key) == ["a.png", "frame009.png", "frame9.png", "frame10.png", "2.png"]


def test_a_late_clip_of_a_large_folder_opens_its_own_frames_only(tmp_path: Path) -> None:
    Image.fromarray(gray_picture(1)).save(tmp_path / "frame.png")
    opened: list[int] = []

    def open_frame(number: int) -> BinaryIO:
        opened.append(number)
        return open_file(tmp_path / "frame.png")

    video = FrameFolder([FrameFile(f"{n}.png", partial(open_frame, n)) for n in range(100_000)], 24.0)
    assert video.info.frame_count == 100_000
    for start in (0, 1, 99_996):
        opened.clear()
        read_clip(video, Clip(start, 4, 24.0, None), ClipSampling(frames=4, fps=24.0), to_pixels)
        assert opened == list(range(start, start + 4))
