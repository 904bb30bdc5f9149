"""Small videos of every kind. A frame's number is its gray level, so pixels prove which frame they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from shared.codec import EMU3
from shared.errors import RefusedInput
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video

HEIGHT, WIDTH, FRAMES, FPS = 48, 64, 60, 24
TOLERANCE = 2  # in gray levels; frames differ by 3

T = TypeVar("T")


def gray(number: int) -> int:
    return 20 + 3 * number % 220


def frame_number_of(pixels_HWC: np.ndarray) -> int:
    """Return the number of a frame made by `gray_picture`."""
    level = float(pixels_HWC.mean())
    number = round((level - 20) / 3)
    assert abs(gray(number) - level) <= TOLERANCE
    return number


def gray_picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.full((height, width, 3), gray(number), np.uint8)


def gray_pictures(count: int) -> list[Image.Image]:
    return [Image.fromarray(gray_picture(number)) for number in range(count)]


def encode(
    kind: str,
    codec: str = "libx264",
    pictures: list[np.ndarray] | None = None,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, FPS),
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    configure: Callable[[VideoStream], None] = lambda stream: None,
) -> bytes:
    """Return a container of pictures (H, W, 3), by default FRAMES gray ones; `configure` may change the stream."""
    pictures = [gray_picture(number) for number in range(FRAMES)] if pictures is None else pictures
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.thread_count, stream.codec_context.time_base = pix_fmt, 1, time_base
        configure(stream)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index if pts is None else pts[index], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def animate(kind: str, pictures: list[Image.Image], durations_ms: list[int], **options: Any) -> bytes:
    """Return an animated GIF, PNG or WebP."""
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=durations_ms, **options)
    return file.getvalue()


def to_pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def sampled_frame_numbers(data: bytes, sampling: ClipSampling) -> list[int]:
    """Return the frame numbers of all clips, each clip read from a newly opened video."""
    clips = cut_clips(open_video(io.BytesIO(data)).info, sampling, EMU3)
    read = [read_clip(open_video(io.BytesIO(data)), clip, sampling, to_pixels) for clip in clips]
    return [frame_number_of(frame_HWC) for clip_THWC in read for frame_HWC in clip_THWC]


def refusal_reason(call: Callable[[], object]) -> str:
    """Return the reason with which a call refuses its input; fail if it does not."""
    with pytest.raises(RefusedInput) as refused:
        call()
    assert refused.value.detail, "a refusal needs a detail"
    return refused.value.reason


def attempt(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return what the call returns, or the reason of its refusal."""
    try:
        return call(), None
    except RefusedInput as refused:
        return None, refused.reason


VP9 = {"deadline": "realtime", "cpu-used": "8"}


def fragmented_mp4() -> bytes:
    """Return an MP4 of fragments, whose header lists no frames."""
    return _remuxed_mp4({"movflags": "frag_keyframe+empty_moov"})


def index_first_mp4() -> bytes:
    """Return an MP4 whose header precedes the frames, as for streaming: if it is cut, the header promises too much."""
    return _remuxed_mp4({"moov_size": "20000"})


def _remuxed_mp4(options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    source = av.open(io.BytesIO(encode("mp4", options={"g": "10"})), "r")
    with source, av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


VIDEOS: dict[str, Callable[[], bytes]] = {
    "mp4": lambda: encode("mp4"),
    "mp4 of fragments": fragmented_mp4,
    "mov of short groups": lambda: encode("mov", options={"g": "7"}),
    "mp4 of open groups": lambda: encode("mp4", options={"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "mp4 of ten bits": lambda: encode("mp4", "libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=0"}),
    "matroska": lambda: encode("matroska", options={"g": "12"}),
    "webm": lambda: encode("webm", "libvpx-vp9", options=VP9),
    "avi without display times": lambda: encode("avi", options={"bf": "2", "g": "12"}),
    "transport stream not from 0": lambda: encode("mpegts", options={"g": "12"}),
    "transport stream of open groups": lambda: encode(
        "mpegts", "mpeg2video", options={"bf": "2", "g": "9", "qscale": "1", "qmin": "1", "qmax": "1"}
    ),
    "gif": lambda: animate("GIF", gray_pictures(FRAMES), [40, 40, 50] * 20),
    "apng": lambda: animate("PNG", gray_pictures(FRAMES), [42, 41, 42] * 20),
    "webp": lambda: animate("WEBP", gray_pictures(FRAMES), [42, 41, 42] * 20, lossless=True),
}
