"""Frames to the bytes of a video file, or of one PNG per frame."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from PIL import Image

from shared.errors import ShapeError, UsageError

CODECS = {"mp4": "libx264", "webm": "libvpx-vp9"}
BEST_CRF, WORST_CRF = 4, {"mp4": 51, "webm": 63}
AV_BT709 = 1  # FFmpeg's number for BT.709 as color matrix, primaries and transfer curve
TV_RANGE = 1  # FFmpeg's number for luma in 16–235


def encode_video_file(frames_THWC: np.ndarray, fps: float, format: str, quality: int) -> bytes:
    """Encode uint8 RGB frames (T, H, W, 3), H and W even, as `mp4` (H.264), `webm` (VP9) or animated `webp`.

    For H.264 and VP9, `quality` 1–100 maps linearly to a constant rate factor: 100 to 4, which is nearly lossless and
    plays everywhere; 75 to 16 (H.264) or 19 (VP9); 1 to 51 or 63. WebP uses it directly, is lossless at 100 and merges
    frames that look the same. Color is stored at half resolution except in lossless WebP.
    Equal input gives equal bytes for WebP of the same library versions, but not always for H.264 and VP9.
    Raises ShapeError for other arrays, UsageError for another format or a rate or quality out of range.
    """
    _check(frames_THWC, fps, quality)
    if format == "webp":
        return _webp(frames_THWC, fps, quality)
    if format not in CODECS:
        raise UsageError(f"--video-format {format!r}: expected one of {', '.join((*CODECS, 'webp'))}")
    # Moving the index of an MP4 to the front reads the file again, which needs a real file.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"video.{format}")
        _write_container(path, frames_THWC, fps, format, quality)
        return path.read_bytes()


def frame_files(frames_THWC: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of a PNG for every uint8 RGB frame (T, H, W, 3): `000000.png`, `000001.png`, …"""
    _check(frames_THWC, 1.0, 100)
    for index, pixels_HWC in enumerate(frames_THWC):
        buffer = io.BytesIO()
        Image.fromarray(pixels_HWC).save(buffer, "PNG")
        yield f"{index:06d}.png", buffer.getvalue()


def _check(frames_THWC: np.ndarray, fps: float, quality: int) -> None:
    shape = frames_THWC.shape
    is_video = frames_THWC.ndim == 4 and frames_THWC.dtype == np.uint8 and shape[0] > 0 and shape[3] == 3
    if not is_video or not frames_THWC.size or shape[1] % 2 or shape[2] % 2:
        raise ShapeError(f"frames: expected uint8 (T, H, W, 3) with even H and W, got {frames_THWC.dtype} {shape}")
    if not 0 < fps <= 1000:
        raise UsageError(f"--fps {fps:g}: expected a number of frames per second above 0, at most 1000")
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality}: expected 1 to 100")


def _write_container(path: Path, frames_THWC: np.ndarray, fps: float, format: str, quality: int) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    options = {"fflags": "+bitexact", **({"movflags": "+faststart"} if format == "mp4" else {})}
    with av.open(str(path), "w", format=format, container_options=options) as container:
        stream = container.add_stream(CODECS[format], rate=rate, options=_codec_options(format, quality))
        assert isinstance(stream, VideoStream)
        _configure(stream, frames_THWC.shape[1], frames_THWC.shape[2])
        for index, pixels_HWC in enumerate(frames_THWC):
            frame = _yuv_frame(pixels_HWC)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _codec_options(format: str, quality: int) -> dict[str, str]:
    crf = BEST_CRF + round((WORST_CRF[format] - BEST_CRF) * (100 - quality) / 99)
    if format == "mp4":
        return {"crf": str(crf), "preset": "medium"}
    return {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0"}


def _configure(stream: VideoStream, height: int, width: int) -> None:
    """Set the size, the color space that all players assume, and one thread, so that equal input gives equal bytes."""
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.thread_count = 1
    context = stream.codec_context
    context.flags |= Flags.bitexact
    context.colorspace = context.color_primaries = context.color_trc = AV_BT709
    context.color_range = TV_RANGE


def _yuv_frame(pixels_HWC: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT),
        threads=1,
    )


def _webp(frames_THWC: np.ndarray, fps: float, quality: int) -> bytes:
    """Encode with frame durations in integer milliseconds; end times are rounded, so that rounding never adds up."""
    ends_ms = [round(1000 * (index + 1) / fps) for index in range(len(frames_THWC))]
    durations_ms = [end - start for start, end in zip([0, *ends_ms], ends_ms)]
    images = [Image.fromarray(pixels_HWC) for pixels_HWC in frames_THWC]
    buffer = io.BytesIO()
    options = {"duration": durations_ms, "loop": 0, "quality": quality, "lossless": quality == 100, "method": 4}
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()
