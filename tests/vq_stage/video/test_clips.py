"""Videos of every kind. A frame's number is its grey level, so that a picture proves which frame it is."""

from __future__ import annotations

import io
import math
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import RefusedInput, UsageError
from vq_stage.video.clips import Clip, ClipSampling, cut_clips, read_clip
from vq_stage.video.frame_folder import FrameFile, FrameFolder, natural_sort_key
from vq_stage.video.open_video import open_video
from vq_stage.video.video_file import TimedFrame, VideoInfo, frames_displayed_at

HEIGHT, WIDTH, FRAMES, FPS = 48, 64, 60, 24
TOLERANCE = 2  # grey levels, of a step of 3 between frames
WHITE = (255, 255, 255)
T = TypeVar("T")


def grey(number: int) -> int:
    return 20 + 3 * number % 220


def number_of(pixels_HWC: np.ndarray) -> int:
    level = float(pixels_HWC.mean())
    number = round((level - 20) / 3)
    assert abs(grey(number) - level) <= TOLERANCE
    return number


def flat(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.full((height, width, 3), grey(number), np.uint8)


def encoded(
    kind: str,
    codec: str = "libx264",
    pictures: list[np.ndarray] | None = None,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, FPS),
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    set_up: Callable[[VideoStream], None] = lambda stream: None,
) -> bytes:
    pictures = [flat(number) for number in range(FRAMES)] if pictures is None else pictures
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.thread_count, stream.codec_context.time_base = pix_fmt, 1, time_base
        set_up(stream)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index if pts is None else pts[index], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def animated(kind: str, pictures: list[Image.Image], durations_ms: list[int], **options: Any) -> bytes:
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=durations_ms, **options)
    return file.getvalue()


def pictures_of(count: int) -> list[Image.Image]:
    return [Image.fromarray(flat(number)) for number in range(count)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def numbers(data: bytes, sampling: ClipSampling) -> list[int]:
    """The frames of all clips, each clip read by a reader of its own."""
    clips = cut_clips(open_video(io.BytesIO(data)).info, sampling)
    read = [read_clip(open_video(io.BytesIO(data)), clip, sampling, pixels) for clip in clips]
    return [number_of(frame_HWC) for clip_THWC in read for frame_HWC in clip_THWC]


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedInput) as refused:
        call()
    assert refused.value.detail, "a refusal says what it found"
    return refused.value.reason


VP9 = {"deadline": "realtime", "cpu-used": "8"}
CONTAINERS: dict[str, Callable[[], bytes]] = {
    "mp4": lambda: encoded("mp4"),
    "mp4 of fragments": lambda: encoded_fragments(),
    "mov of short groups": lambda: encoded("mov", options={"g": "7"}),
    "mp4 of open groups": lambda: encoded("mp4", options={"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "mp4 of ten bits": lambda: encoded("mp4", "libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=0"}),
    "matroska": lambda: encoded("matroska", options={"g": "12"}),
    "webm": lambda: encoded("webm", "libvpx-vp9", options=VP9),
    "avi without display times": lambda: encoded("avi", options={"bf": "2", "g": "12"}),
    "transport stream not from 0": lambda: encoded("mpegts", options={"g": "12"}),
    "transport stream of open groups": lambda: encoded(
        "mpegts", "mpeg2video", options={"bf": "2", "g": "9", "qscale": "1", "qmin": "1", "qmax": "1"}
    ),
    "gif": lambda: animated("GIF", pictures_of(FRAMES), [40, 40, 50] * 20),
    "apng": lambda: animated("PNG", pictures_of(FRAMES), [42, 41, 42] * 20),
    "webp": lambda: animated("WEBP", pictures_of(FRAMES), [42, 41, 42] * 20, lossless=True),
}


def encoded_fragments() -> bytes:
    file = io.BytesIO()
    source = av.open(io.BytesIO(encoded("mp4", options={"g": "10"})), "r")
    with source, av.open(file, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("kind", CONTAINERS)
def test_info_says_size_rate_and_length(kind: str) -> None:
    info = open_video(io.BytesIO(CONTAINERS[kind]())).info
    assert (info.height, info.width, info.frame_count) == (HEIGHT, WIDTH, FRAMES)
    length_s = 2.6 if kind == "gif" else 2.5  # a GIF counts hundredths of a second
    assert info.duration_s == pytest.approx(length_s, abs=0.002)
    assert info.fps == pytest.approx(FRAMES / length_s, abs=0.05)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_clips_read_one_by_one_show_every_frame_once(kind: str) -> None:
    """Each clip seeks anew: past B-frames, to keyframes that are displayed later than they are decoded."""
    assert numbers(CONTAINERS[kind](), ClipSampling(frames=8, stride=1)) == list(range(FRAMES))


@pytest.mark.parametrize("kind", sorted(set(CONTAINERS) - {"gif"}))
def test_by_time_takes_the_frame_shown_then(kind: str) -> None:
    data = CONTAINERS[kind]()
    assert numbers(data, ClipSampling(frames=8, fps=8)) == list(range(0, FRAMES, 3))
    assert numbers(data, ClipSampling(frames=8, fps=24)) == list(range(FRAMES))
    half = ClipSampling(frames=4, fps=12, start_s=0.5, duration_s=1.0)
    assert numbers(data, half) == list(range(12, 36, 2))


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
def test_by_count_takes_every_stride_th_frame(kind: str) -> None:
    assert numbers(CONTAINERS[kind](), ClipSampling(frames=8, stride=5)) == list(range(0, FRAMES, 5))


@pytest.mark.parametrize("kind", ["mp4", "avi without display times", "webp"])
def test_a_clip_equals_its_slice_of_the_whole(kind: str) -> None:
    data, whole = CONTAINERS[kind](), ClipSampling(frames=60, fps=24)
    video = open_video(io.BytesIO(data))
    (only,) = cut_clips(video.info, whole)
    pixels_THWC = read_clip(video, only, whole, pixels)
    short = replace(whole, frames=12)
    for clip in reversed(cut_clips(video.info, short)):
        part_THWC = read_clip(video, clip, short, pixels)
        assert np.array_equal(part_THWC, pixels_THWC[clip.frame_start : clip.frame_start + clip.frames])


def test_more_frames_than_there_are_repeat_those_there_are() -> None:
    data = animated("GIF", pictures_of(4), [500] * 4)
    assert numbers(data, ClipSampling(frames=4, fps=4)) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", ["matroska", "mp4"])
def test_variable_rate_is_sampled_by_time(kind: str) -> None:
    """Frames 0–4 last 100 ms each, 5–9 a second each."""
    pts = [0, 100, 200, 300, 400, 500, 1500, 2500, 3500, 4500]
    data = encoded(kind, pictures=[flat(n) for n in range(10)], pts=pts, time_base=Fraction(1, 1000))
    found = numbers(data, ClipSampling(frames=4, fps=4))
    assert len(found) in (16, 20), "how long the last frame lasts is the container's word"
    assert found == [max(n for n in range(10) if pts[n] <= 250 * k) for k in range(len(found))]
    assert numbers(data, ClipSampling(frames=4, stride=2, duration_s=60)) == [0, 2, 4, 6]


def test_time_0_is_the_first_frame_wherever_the_stream_starts() -> None:
    late = encoded("matroska", pts=[n + 240 for n in range(FRAMES)])
    assert av.open(io.BytesIO(late)).streams.video[0].start_time == 10_000
    assert numbers(late, ClipSampling(frames=4, fps=8)) == list(range(0, FRAMES, 3))


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(0, "top"), (90, "left"), (180, "bottom"), (270, "right")],
)
def test_rotation_is_applied_to_size_and_pixels(degrees: int, expected: str) -> None:
    """A bright top edge, turned counterclockwise as the file asks, is on the left and so on."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 4] = 200
    data = encoded("mp4", pictures=[picture] * 8, set_up=lambda stream: stream.set_display_rotation(degrees))
    video, sampling = open_video(io.BytesIO(data)), ClipSampling(frames=4, stride=1)
    size = (WIDTH, HEIGHT) if degrees % 180 else (HEIGHT, WIDTH)
    assert (video.info.height, video.info.width) == size
    frame_HW = read_clip(video, cut_clips(video.info, sampling)[0], sampling, pixels)[0, :, :, 0]
    assert frame_HW.shape == size
    edges = {"top": frame_HW[2], "bottom": frame_HW[-3], "left": frame_HW[:, 2], "right": frame_HW[:, -3]}
    assert max(edges, key=lambda edge: float(np.median(edges[edge]))) == expected


def test_a_mirrored_video_is_mirrored() -> None:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, : WIDTH // 4] = 200
    data = encoded(
        "mp4",
        pictures=[picture] * 8,
        set_up=lambda stream: stream.set_display_matrix([-1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]),
    )
    sampling = ClipSampling(frames=4, stride=1)
    frame_HWC = read_clip(open_video(io.BytesIO(data)), Clip(0, 4, 24, 1), sampling, pixels)[0]
    assert frame_HWC[:, -3].mean() > 190
    assert frame_HWC[:, 2].mean() < 10


def test_pixels_that_are_not_square_are_stretched_in_width() -> None:
    def widen(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    video = open_video(io.BytesIO(encoded("mp4", set_up=widen)))
    assert (video.info.height, video.info.width) == (HEIGHT, WIDTH * 3 // 2)
    sampling = ClipSampling(frames=4)
    assert read_clip(video, Clip(0, 4, 8, None), sampling, pixels).shape == (4, HEIGHT, WIDTH * 3 // 2, 3)


def test_odd_sides_and_colours_survive() -> None:
    picture = np.zeros((51, 37, 3), np.uint8)
    picture[:] = (200, 60, 30)
    data = encoded("mp4", "libx264", pictures=[picture] * 4, pix_fmt="yuv444p", options={"crf": "1"})
    frame_HWC = read_clip(open_video(io.BytesIO(data)), Clip(0, 4, 24, 1), ClipSampling(stride=1), pixels)[0]
    assert frame_HWC.shape == (51, 37, 3)
    assert np.abs(frame_HWC.astype(int) - (200, 60, 30)).max() <= 3


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    pictures = [Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)) for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture.paste((255, 0, 0, 255), (8 * number, 0, 8 * number + 8, HEIGHT))
        picture.paste((0, 0, 0, 0), (8 * number + 2, 2, 8 * number + 4, 4))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"disposal": 2} if kind == "GIF" else {}
    data = animated(kind, pictures, [100] * 4, **options)
    clip_THWC = read_clip(open_video(io.BytesIO(data)), Clip(0, 4, 10, 1), ClipSampling(stride=1), pixels)
    for number, frame_HWC in enumerate(clip_THWC):
        expected_HWC = np.full((HEIGHT, WIDTH, 3), WHITE, np.uint8)
        expected_HWC[:, 8 * number : 8 * number + 8] = (255, 0, 0)
        expected_HWC[2:4, 8 * number + 2 : 8 * number + 4] = WHITE
        assert np.array_equal(frame_HWC, expected_HWC)


def test_transparency_in_a_container_is_laid_on_white() -> None:
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[:, :32] = (255, 0, 0, 255)
    pictures = [picture] * 4
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream: Any = container.add_stream("qtrle", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "argb"
        for index, pixels_HWC in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgba").reformat(format="argb")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip_THWC = read_clip(open_video(file), Clip(0, 4, 24, 1), ClipSampling(stride=1), pixels)
    assert np.all(clip_THWC[:, :, :32] == (255, 0, 0))
    assert np.all(clip_THWC[:, :, 32:] == 255)


def test_a_frame_of_0_ms_lasts_100_ms() -> None:
    data = animated("GIF", pictures_of(8), [0] * 8)
    info = open_video(io.BytesIO(data)).info
    assert (info.fps, info.duration_s, info.frame_count) == (pytest.approx(10), pytest.approx(0.8), 8)


def test_a_still_image_is_too_short() -> None:
    file = io.BytesIO()
    pictures_of(1)[0].save(file, "PNG")
    assert reason_of(lambda: cut_clips(open_video(file).info, ClipSampling())) == "too_short"


def with_sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "one byte": (lambda: b"x", "not_a_video"),
    "text": (lambda: b"this is not a video, " * 200, "not_a_video"),
    "zeros": (lambda: bytes(5000), "not_a_video"),
    "noise": (lambda: random.Random(0).randbytes(20_000), "not_a_video"),
    "a playlist of other files": (lambda: b"#EXTM3U\n#EXTINF:1\nother.ts\n", "not_a_video"),
    "sound": (with_sound_only, "no_video"),
    "GIF's first bytes": (lambda: b"GIF89a and no more", "not_a_video"),
    "tiny": (lambda: encoded("avi", "mjpeg", [flat(0, 6, 16)] * 8, pix_fmt="yuvj420p"), "too_small"),
    "strip": (lambda: encoded("mp4", pictures=[flat(0, 16, 96)] * 8), "aspect_ratio"),
    "strip that moves": (
        lambda: animated("GIF", [Image.new("L", (96, 16), n) for n in (1, 2)], [9, 9]),
        "aspect_ratio",
    ),
    "slanted": (
        lambda: encoded("mp4", set_up=lambda stream: stream.set_display_rotation(30)),
        "unsupported_mode",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, reason = BAD[name]
    data = make()
    capfd.readouterr()
    assert reason_of(lambda: open_video(io.BytesIO(data)).info) == reason
    assert capfd.readouterr() == ("", ""), "the libraries keep quiet"


def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.mp4").write_bytes(CONTAINERS["mp4"]())
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.mp4\n"
    assert reason_of(lambda: open_video(io.BytesIO(playlist))) == "not_a_video"


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = CONTAINERS["mp4"]()
    monkeypatch.setattr("vq_stage.video.container.MAX_PIXELS", HEIGHT * WIDTH - 1)
    assert reason_of(lambda: open_video(io.BytesIO(data))) == "too_large"


@pytest.mark.parametrize("tenths", range(1, 10))
@pytest.mark.parametrize("kind", ["mp4", "index first", "matroska", "webm", "avi without display times", "gif", "webp"])
def test_a_cut_file_gives_right_frames_or_a_refusal(kind: str, tenths: int) -> None:
    data = encoded_index_first() if kind == "index first" else CONTAINERS[kind]()
    video_bytes, sampling = data[: len(data) * tenths // 10], ClipSampling(frames=4, stride=1)
    clips, refusal = attempt(lambda: cut_clips(open_video(io.BytesIO(video_bytes)).info, sampling))
    assert refusal in (None, "truncated", "too_short")
    for clip in clips or []:
        clip_THWC, refusal = attempt(partial(read_clip, open_video(io.BytesIO(video_bytes)), clip, sampling, pixels))
        assert refusal in (None, "truncated")
        if clip_THWC is not None:
            assert [number_of(frame) for frame in clip_THWC] == list(range(clip.frame_start, clip.frame_start + 4))


def attempt(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """What the call returns, or the reason of its refusal."""
    try:
        return call(), None
    except RefusedInput as refused:
        return None, refused.reason


def encoded_index_first() -> bytes:
    """An MP4 whose header stands before the pictures, as for streaming: it promises frames that a cut takes away."""
    file = io.BytesIO()
    source = av.open(io.BytesIO(encoded("mp4", options={"g": "10"})), "r")
    with source, av.open(file, "w", format="mp4", options={"moov_size": "20000"}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def test_frames_before_the_cut_are_still_read() -> None:
    data = encoded_index_first()
    video, sampling = open_video(io.BytesIO(data[:-200])), ClipSampling(frames=8, stride=1)
    assert video.info.frame_count == FRAMES, "the header is whole"
    first, *_, last = cut_clips(video.info, sampling)
    assert [number_of(frame) for frame in read_clip(video, first, sampling, pixels)] == list(range(8))
    assert reason_of(lambda: read_clip(video, last, sampling, pixels)) == "truncated"


def test_a_cut_between_packets_skips_no_frame() -> None:
    """Frames that refer to later ones come after them in a file: what is there has gaps that nothing shows."""
    data = encoded_index_first()
    with av.open(io.BytesIO(data), "r") as container:
        ends = [entry.pos for entry in container.streams.video[0].index_entries][21:33]
    sampling = ClipSampling(frames=4, fps=24)
    for end in ends:
        video = open_video(io.BytesIO(data[:end]))
        for clip in cut_clips(video.info, sampling)[3:9]:
            clip_THWC, refusal = attempt(partial(read_clip, video, clip, sampling, pixels))
            assert refusal == (None if clip_THWC is not None else "truncated")
            if clip_THWC is not None:
                assert [number_of(frame) for frame in clip_THWC] == list(range(clip.frame_start, clip.frame_start + 4))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bits_never_raise_anything_but_a_refusal(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["mp4", "webm", "gif", "webp"]))
    damaged, sampling = bytearray(SMALL[kind]), ClipSampling(frames=4, stride=1)
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[position] ^= data.draw(st.integers(1, 255))

    def read() -> int:
        video = open_video(io.BytesIO(bytes(damaged)))
        clips = cut_clips(video.info, sampling)[:4]
        for clip in clips:
            clip_THWC = read_clip(video, clip, sampling, lambda image: np.asarray(image.resize((8, 8))))
            assert clip_THWC.shape == (4, 8, 8, 3)
        return len(clips)

    count, refusal = attempt(read)
    assert count or refusal


SMALL = {
    "mp4": encoded("mp4", pictures=[flat(n) for n in range(12)]),
    "webm": encoded("webm", "libvpx-vp9", [flat(n) for n in range(12)], options=VP9),
    "gif": animated("GIF", pictures_of(12), [100] * 12),
    "webp": animated("WEBP", pictures_of(12), [100] * 12),
}


def test_one_clip_of_a_long_video_holds_no_more_than_the_clip() -> None:
    frames = 2000
    data = encoded("mp4", pictures=[flat(n % 70) for n in range(frames)], options={"preset": "ultrafast"})
    sampling = ClipSampling(frames=16, fps=24)
    video = open_video(io.BytesIO(data))
    clips = cut_clips(video.info, sampling)
    assert len(clips) == frames // 16
    resized = []

    def resize(image: Image.Image) -> np.ndarray:
        resized.append(image.size)
        return np.asarray(image)

    tracemalloc.start()
    clip_THWC = read_clip(video, clips[-1], sampling, resize)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [number_of(frame) for frame in clip_THWC] == [n % 70 for n in range(1984, 2000)]
    assert len(resized) == 16, "frames outside the clip are not converted"
    assert peak_bytes < 3 * clip_THWC.nbytes + 1_000_000 < frames * clip_THWC[0].nbytes / 5


def test_frames_displayed_at_refuses_times_after_the_last_frames_end() -> None:
    frames = [TimedFrame(0.0, 0.5, "a"), TimedFrame(0.5, 1.0, "b")]
    assert list(frames_displayed_at(frames, [0.0, 0.4, 0.5, 0.9])) == ["a", "a", "b", "b"]
    assert reason_of(lambda: list(frames_displayed_at(frames, [0.9, 1.1]))) == "truncated"
    assert reason_of(lambda: list(frames_displayed_at([], [0.0]))) == "truncated"


def folder(tmp_path: Path, names: list[str], sizes: list[tuple[int, int]] | None = None) -> list[FrameFile]:
    for number, name in enumerate(names):
        height, width = sizes[number] if sizes else (HEIGHT, WIDTH)
        Image.fromarray(flat(number, height, width)).save(tmp_path / name)
    return [frame_file(path) for path in tmp_path.iterdir()]


def frame_file(path: Path) -> FrameFile:
    return FrameFile(path.name, lambda: path.open("rb"))


def test_a_folder_of_numbered_images_is_a_video(tmp_path: Path) -> None:
    names = [f"frame{number}.png" for number in range(12)]
    video = FrameFolder(folder(tmp_path, names), fps=8.0)
    assert video.info == VideoInfo(HEIGHT, WIDTH, 8.0, 1.5, 12)
    for sampling, expected in [
        (ClipSampling(frames=4), list(range(12))),
        (ClipSampling(frames=4, fps=4), [0, 2, 4, 6]),
        (ClipSampling(frames=4, stride=3), [0, 3, 6, 9]),
    ]:
        clips = cut_clips(video.info, sampling)
        found = [number_of(frame) for clip in clips for frame in read_clip(video, clip, sampling, pixels)]
        assert found == expected


def test_frames_of_a_folder_have_one_size_and_can_be_read(tmp_path: Path) -> None:
    frames = folder(tmp_path, [f"{n}.png" for n in range(4)], [(48, 64), (48, 64), (48, 64), (64, 48)])
    sampling = ClipSampling(frames=4)
    clip = Clip(0, 4, 8.0, None)
    assert reason_of(lambda: read_clip(FrameFolder(frames, 8.0), clip, sampling, pixels)) == "bad_size"
    (tmp_path / "3.png").write_bytes(b"")
    assert reason_of(lambda: read_clip(FrameFolder(frames, 8.0), clip, sampling, pixels)) == "empty"
    (tmp_path / "3.png").unlink()
    assert reason_of(lambda: read_clip(FrameFolder(frames, 8.0), clip, sampling, pixels)) == "missing"
    assert reason_of(lambda: FrameFolder([], 8.0).info) == "too_short"


def test_natural_order_compares_numbers_by_value() -> None:
    names = ["frame10.png", "frame9.png", "frame009.png", "a.png", "2.png"]
    assert sorted(names, key=natural_sort_key) == ["a.png", "frame009.png", "frame9.png", "frame10.png", "2.png"]


@given(
    st.floats(0.01, 100),
    st.floats(1, 120),
    st.integers(1, 8).map(lambda quarter: 4 * quarter),
    st.one_of(st.tuples(st.floats(0.5, 60), st.none()), st.tuples(st.none(), st.integers(1, 9))),
    st.floats(0, 20),
    st.none() | st.floats(0.1, 50),
)
def test_clips_cover_without_overlap_in_multiples_of_4(
    length_s: float,
    native_fps: float,
    frames: int,
    rate: tuple[float | None, int | None],
    start_s: float,
    duration_s: float | None,
) -> None:
    info = VideoInfo(HEIGHT, WIDTH, native_fps, length_s, max(1, round(length_s * native_fps)))
    sampling = ClipSampling(frames, rate[0], rate[1], start_s, duration_s)
    end_s = min(length_s, start_s + (duration_s or math.inf))
    found, refusal = attempt(lambda: cut_clips(info, sampling))
    clips = found or []
    assert refusal in (None, "too_short")
    assert bool(clips) == (refusal is None)
    step = sampling.stride or 1
    taken = [clip.frame_start + index * step for clip in clips for index in range(clip.frames)]
    assert taken == list(range(taken[0], taken[-1] + 1, step) if taken else [])
    assert all(clip.frames % 4 == 0 and 0 < clip.frames <= frames for clip in clips)
    assert all(clip.frames == frames for clip in clips[:-1])
    rate_fps = sampling.fps or native_fps
    first = start_s * native_fps if sampling.stride else 0.0
    last = (end_s - (0.0 if sampling.stride else start_s)) * rate_fps
    if sampling.stride:
        last = min(last, info.frame_count)
    last = max(last, first)
    covered = taken[-1] + step if taken else first
    assert covered < last + step + 1, "nothing after the end"
    assert covered > last - 4 * step - 1, "fewer than 4 frames are left out"


def test_a_frame_of_weeks_is_a_damaged_time_and_not_millions_of_clips() -> None:
    info = VideoInfo(HEIGHT, WIDTH, 24.0, 1e9, FRAMES)
    assert reason_of(lambda: cut_clips(info, ClipSampling())) == "unsupported_mode"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frames": 6}, "--clip-frames 6"),
        ({"frames": 0}, "--clip-frames 0"),
        ({"fps": 8.0, "stride": 2}, "--stride 2"),
        ({"fps": 0.0}, "--fps 0"),
        ({"fps": math.nan}, "--fps nan"),
        ({"stride": 0}, "--stride 0"),
        ({"start_s": -1.0}, "--start-s -1"),
        ({"duration_s": 0.0}, "--duration-s 0"),
    ],
)
def test_settings_that_cannot_work_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ClipSampling(**options)


def test_a_stride_switches_the_rate_off_and_both_are_recorded() -> None:
    assert ClipSampling().to_json() == {"frames": 16, "fps": 8.0, "stride": None, "start_s": 0.0, "duration_s": None}
    assert ClipSampling(stride=2).to_json()["fps"] is None
