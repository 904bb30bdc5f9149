"""Frames written as a video file and read back by our own reader, and as PNGs."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from shared.codec import EMU3
from shared.errors import ShapeError, UsageError
from vq_stage.decode.options import VIDEO_FORMATS
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.encoding import encode_video_file, frame_files
from vq_stage.video.open_video import open_video

FILES = [format for format in VIDEO_FORMATS if format != "frames"]
COLORS = [(200, 60, 30), (30, 200, 60), (60, 30, 200), (128, 128, 128)]


def moving() -> np.ndarray:
    """uint8 (12, 64, 96, 3): smooth colors that differ in every frame."""
    y, x = np.mgrid[:64, :96]
    frames = [np.stack([x * 2 + 3 * t, y * 3, x + y + 5 * t], -1) for t in range(12)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def read_back(data: bytes, fps: float) -> np.ndarray:
    video, sampling = open_video(io.BytesIO(data)), ClipSampling(frames=12, fps=fps)
    (clip,) = cut_clips(video.info, sampling, EMU3)
    return read_clip(video, clip, sampling, np.asarray)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("fps", [8, 23.976, 30])
@pytest.mark.parametrize("format", FILES)
def test_a_written_file_is_read_back_at_its_rate(format: str, fps: float) -> None:
    frames_THWC = moving()
    data = encode_video_file(frames_THWC, fps, format, 95)
    info = open_video(io.BytesIO(data)).info
    assert (info.height, info.width) == (64, 96)
    assert info.duration_s == pytest.approx(12 / fps, abs=0.002)
    assert psnr(read_back(data, fps), frames_THWC) > (24 if format == "webp" else 38)  # WebP merges similar frames


@pytest.mark.parametrize("format", ["mp4", "webm"])
@pytest.mark.parametrize("color", COLORS)
def test_colors_are_tagged_so_that_they_survive(format: str, color: tuple[int, int, int]) -> None:
    frames_THWC = np.full((12, 64, 96, 3), color, np.uint8)
    found_THWC = read_back(encode_video_file(frames_THWC, 8, format, 100), 8)
    assert np.abs(found_THWC.astype(int) - frames_THWC).max() <= 3


def test_webp_is_lossless_at_100() -> None:
    assert np.array_equal(read_back(encode_video_file(moving(), 8, "webp", 100), 8), moving())


def test_equal_frames_give_equal_bytes_of_webp() -> None:
    assert encode_video_file(moving(), 8, "webp", 75) == encode_video_file(moving(), 8, "webp", 75)


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_equal_frames_give_files_that_look_the_same(format: str) -> None:
    """Bytes differed once in many runs."""
    one, two = (read_back(encode_video_file(moving(), 8, format, 75), 8) for _ in range(2))
    assert one.shape == two.shape
    assert np.abs(one.astype(int) - two).mean() < 1


@pytest.mark.parametrize("format", FILES)
def test_higher_quality_gives_larger_files_and_higher_psnr(format: str) -> None:
    noisy = np.random.default_rng(0).integers(0, 60, (12, 64, 96, 3), np.uint8) + moving() // 2
    low, middle, high = (encode_video_file(noisy, 8, format, quality) for quality in (1, 60, 99))
    assert len(low) < len(middle) < len(high)
    assert psnr(read_back(low, 8), noisy) < psnr(read_back(high, 8), noisy)


def test_an_mp4_can_be_played_while_it_loads() -> None:
    data = encode_video_file(moving(), 8, "mp4", 75)
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 12)


def test_a_webp_loops_forever_and_does_not_drift() -> None:
    image: Any = Image.open(io.BytesIO(encode_video_file(moving(), 30, "webp", 100)))
    ends_ms = []
    for index in range(image.n_frames):
        image.seek(index)
        image.load()
        ends_ms.append(image.info["timestamp"] + image.info["duration"])
    assert ends_ms == [round(1000 * (index + 1) / 30) for index in range(12)]
    assert image.info["loop"] == 0


def test_frames_are_numbered_pngs_of_the_same_pixels() -> None:
    files = list(frame_files(moving()))
    assert [name for name, _ in files] == [f"{index:06d}.png" for index in range(12)]
    found_THWC = np.stack([np.asarray(Image.open(io.BytesIO(data))) for _, data in files])
    assert np.array_equal(found_THWC, moving())


@pytest.mark.parametrize(
    ("frames", "fps", "format", "quality", "error", "named"),
    [
        (moving()[0], 8, "mp4", 75, ShapeError, "even H and W"),
        (moving()[:0], 8, "mp4", 75, ShapeError, "even H and W"),
        (moving()[:, :63], 8, "mp4", 75, ShapeError, "63"),
        (moving().astype(np.float32), 8, "webp", 75, ShapeError, "float32"),
        (moving(), 0, "mp4", 75, UsageError, "--fps 0"),
        (moving(), 8, "mp4", 0, UsageError, "--quality 0"),
        (moving(), 8, "avi", 75, UsageError, "--video-format 'avi'"),
    ],
)
def test_input_that_cannot_be_written_is_refused(
    frames: np.ndarray, fps: float, format: str, quality: int, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        encode_video_file(frames, fps, format, quality)
