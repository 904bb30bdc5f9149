"""Videos in containers (MP4, MOV, Matroska, WebM, AVI, MPEG, …), decoded by FFmpeg's libraries through PyAV.

Left as they are: interlaced frames and the tone of HDR videos.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, dropwhile
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream
from PIL import Image

from shared.errors import RefusedInput
from vq_stage.media.image_decoding import MAX_PIXELS
from vq_stage.video.frames import TimedFrame, VideoInfo, check_size, on_white, read_head, shown_at

# No playlists: those would open other files and addresses.
CONTAINERS = "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg"
# The same pixels on every kind of processor; without full chroma all comes out two grey levels too dark.
EXACTLY = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
SCALING = int(Interpolation.BICUBIC | EXACTLY)
LEADS_S = (0.0, 2.0, 10.0)  # how much earlier to look for a keyframe, before reading from the first
MAX_ROUNDING_S = 1e-3
UNSPECIFIED_COLORSPACE = 2

Transpose = Image.Transpose
# Where a display matrix sends a step right and a step down: (right_x, right_y, down_x, down_y).
ORIENTATIONS: dict[tuple[float, float, float, float], Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, -1, 0): Transpose.ROTATE_270,
    (0, -1, 1, 0): Transpose.ROTATE_90,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
TURNING = {Transpose.ROTATE_90, Transpose.ROTATE_270, Transpose.TRANSPOSE, Transpose.TRANSVERSE}

Decoded: TypeAlias = TimedFrame[av.VideoFrame]


@dataclass(frozen=True, slots=True)
class PacketTimes:
    """What the packets say without being decoded; `is_whole` is false where the header had promised more."""

    starts_s: list[float]
    end_s: float
    is_whole: bool


class ContainerVideo:
    """A video stream. Pixels that are not square are stretched in width; rotation and flips are applied.

    Every read opens the container anew: decoders keep state, and so no frame depends on what was read before.
    One read at a time, since they share the file.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        with self._opened() as (container, stream):
            self._kind = container.format.name
            self._time_base = stream.time_base or Fraction(1, av.time_base)
            self._frame_s = 1 / float(stream.average_rate or 25)
            pixel_aspect = float(stream.sample_aspect_ratio or 1)
            first = next(self._decode(container, stream), None)
            if first is None:
                raise RefusedInput("truncated", "no frame can be decoded")
            self._origin_pts, self._transpose = first.pts or 0, _orientation(first)
        self._height, self._width = first.height, max(1, round(first.width * pixel_aspect))
        is_turned = self._transpose in TURNING
        self._displayed = (self._width, self._height) if is_turned else (self._height, self._width)
        check_size(*self._displayed)

    @cached_property
    def info(self) -> VideoInfo:
        """From the header of MP4 and MOV; elsewhere, and in fragments, packets are counted, not decoded."""
        with self._opened() as (_, stream):
            nominal_fps = float(stream.average_rate or 0)
            indexed = self._indexed(stream)
        count, duration_s = indexed or (len(self._packets.starts_s), self._packets.end_s)
        if count < 1 or not 0 < duration_s < math.inf:
            raise RefusedInput("too_short", f"{count} frames in {duration_s:.3f} s")
        fps = count / duration_s
        if abs(nominal_fps - fps) < 0.01 * fps:  # the same but for rounded times
            fps = nominal_fps
        return VideoInfo(*self._displayed, fps, duration_s, count)

    @property
    def starts_s(self) -> Sequence[float]:
        return self._packets.starts_s

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        for frame in shown_at(self._from(times_s[0]), times_s, self._tolerance_s):
            if frame.is_corrupt:
                raise RefusedInput("truncated", f"the frame at {self._seconds(frame.pts or 0):.3f} s is damaged")
            with _refusing("truncated"):
                image = self._to_image(frame)
            yield image

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        with _refusing("truncated" if _is_known(read_head(self._file)) else "not_a_video"):
            self._file.seek(0)
            container = av.open(self._file, "r", options={"format_whitelist": CONTAINERS})
        with container, _refusing("truncated"):
            yield container, _video_stream(container)

    def _decoded(self, seek_s: float | None = None) -> Iterator[av.VideoFrame]:
        """Frames in the order of display, all of them, or from a keyframe around `seek_s` on."""
        with self._opened() as (container, stream):
            if seek_s is not None:
                offset = math.floor((seek_s + self._tolerance_s) / self._time_base)
                container.seek(self._origin_pts + offset, stream=stream)
            yield from self._decode(container, stream, is_to_end=True)

    def _decode(
        self, container: InputContainer, stream: VideoStream, is_to_end: bool = False
    ) -> Iterator[av.VideoFrame]:
        next_pts, is_begun = 0, False
        for packet in container.demux(stream):
            is_end = packet.dts is None and packet.size == 0
            if packet.is_corrupt or (is_end and is_to_end and not self._is_whole):
                # the decoder still holds frames, but those between them may be missing
                raise RefusedInput("truncated", "the file is cut or damaged")
            for frame in _frames_of(packet, is_begun):
                time = self._time_of(frame)
                frame.pts = next_pts if time is None else time
                next_pts = frame.pts + round(self._frame_s / self._time_base)
                is_begun = True
                yield frame

    def _from(self, time_s: float) -> Iterator[Decoded]:
        """Frames from one on that is shown at or before `time_s`.

        A container's index knows decoding times: the keyframe it finds may be displayed later than asked for, and
        what comes out before a keyframe may lack its references. So the first keyframe out has to be early enough.
        """
        for lead_s in LEADS_S:
            if time_s - lead_s <= 0:
                break
            frames = dropwhile(lambda frame: not frame.key_frame, self._decoded(time_s - lead_s))
            try:
                first = next(frames, None)
            except RefusedInput:
                continue
            if first is not None and self._seconds(first.pts or 0) <= time_s + self._tolerance_s:
                return map(self._timed, chain((first,), frames))
        return map(self._timed, self._decoded())

    def _timed(self, frame: av.VideoFrame) -> Decoded:
        start_s = self._seconds(frame.pts or 0)
        return TimedFrame(start_s, start_s + self._lasts_s(frame.duration or 0), frame)

    def _to_image(self, frame: av.VideoFrame) -> Image.Image:
        has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        is_untagged_hd = frame.colorspace == UNSPECIFIED_COLORSPACE and (frame.width >= 1280 or frame.height > 576)
        rgb = frame.reformat(
            self._width,
            self._height,
            "rgba" if has_alpha else "rgb24",
            src_colorspace=Colorspace.ITU709 if is_untagged_hd else None,  # as players guess
            interpolation=SCALING,
            threads=1,
        )
        image = Image.fromarray(np.asarray(rgb.to_ndarray()))
        image = on_white(image) if has_alpha else image
        return image if self._transpose is None else image.transpose(self._transpose)

    def _indexed(self, stream: VideoStream) -> tuple[int, float] | None:
        """Number of frames and seconds, if the header lists every frame.

        It lists when they are decoded: at a varying rate that tells when they are shown only where none is reordered.
        """
        entries = stream.index_entries
        if "mov" not in self._kind or not stream.duration or not 0 < stream.frames <= len(entries):
            return None
        kept = [entry.timestamp for entry in entries if not entry.is_discard]
        gaps = np.diff(kept)
        if stream.codec_context.has_b_frames and gaps.size and np.ptp(gaps) > 1:
            return None
        return len(kept), float(stream.duration * self._time_base)

    @cached_property
    def _is_whole(self) -> bool:
        """Whether the file holds what its header promises, as far as that can be told."""
        with self._opened() as (_, stream):
            if self._indexed(stream) is not None:
                last = stream.index_entries[len(stream.index_entries) - 1]
                return last.pos + last.size <= self._file.seek(0, os.SEEK_END)
        return self._packets.is_whole

    @cached_property
    def _packets(self) -> PacketTimes:
        """Reads the whole file. Damage ends it early; then what came before is told."""
        packets: list[tuple[int, int]] = []
        end_s, is_whole = 0.0, True  # of all streams: a header's duration may be that of the sound
        with self._opened() as (container, stream):
            try:
                for packet in container.demux():
                    time = self._time_of(packet)
                    if time is None or packet.is_discard:
                        continue
                    end_s = max(end_s, float((time + (packet.duration or 0)) * packet.time_base))
                    if packet.stream_index == stream.index:
                        packets.append((time, packet.duration or 0))
                        is_whole = is_whole and not packet.is_corrupt
            except av.FFmpegError:
                is_whole = False
            if "matroska" in self._kind:
                is_whole = is_whole and (container.duration or 0) / av.time_base <= end_s + 2 * self._frame_s
            return self._packet_times(sorted(packets), is_whole and len(packets) >= stream.frames)

    def _packet_times(self, packets: list[tuple[int, int]], is_whole: bool) -> PacketTimes:
        origin = packets[0][0] if packets and self._kind == "avi" else self._origin_pts
        packets = [packet for packet in packets if packet[0] >= origin]
        starts_s = [float((time - origin) * self._time_base) for time, _ in packets]
        ends_s = [start_s + self._lasts_s(duration) for start_s, (_, duration) in zip(starts_s, packets)]
        return PacketTimes(starts_s, max(ends_s, default=0.0), is_whole)

    @property
    def _tolerance_s(self) -> float:
        """Times are rounded to the container's ticks: half a tick, where ticks are fine."""
        return min(max(0.51 * float(self._time_base), 1e-6), MAX_ROUNDING_S)

    def _lasts_s(self, duration: int) -> float:
        """A frame's own duration, at least that of an average one: not every container tells it."""
        return max(float(duration * self._time_base), self._frame_s)

    def _seconds(self, pts: int) -> float:
        return float((pts - self._origin_pts) * self._time_base)

    def _time_of(self, timed: av.Packet | av.VideoFrame) -> int | None:
        """Display time in ticks. AVI has none: there frames come out in order and the decoding time counts them."""
        return timed.dts if timed.pts is None or self._kind == "avi" else timed.pts


def _video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover picture, to be decoded by one thread. Raises RefusedInput."""
    kinds = {stream.type for stream in container.streams}
    if not kinds & {"video", "audio", "subtitle"}:
        raise RefusedInput("truncated", "the header ends before any stream")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise RefusedInput("no_video", f"no moving pictures, only {', '.join(sorted(kinds))}")
    stream = streams[0]
    if stream.codec_context is None:
        raise RefusedInput("unsupported_mode", "no decoder for this kind of video")
    if stream.width * stream.height > MAX_PIXELS:
        raise RefusedInput("too_large", f"{stream.height}×{stream.width} pixels, at most {MAX_PIXELS} in all")
    stream.thread_type = ThreadType.NONE
    stream.thread_count = 1
    return stream


def _frames_of(packet: av.Packet, is_begun: bool) -> list[av.VideoFrame]:
    """Decoded frames; packets before the first keyframe, in recordings that begin anywhere, give none."""
    if packet.size == 0 and packet.dts is not None:  # a frame left out by the encoder: not the end
        return []
    try:
        return packet.decode()
    except av.InvalidDataError:
        if is_begun:
            raise
        return []


def _orientation(frame: av.VideoFrame) -> Transpose | None:
    """How to turn a frame upright, from its display matrix. Raises RefusedInput `unsupported_mode` if slanted."""
    side_data: Any = frame.side_data  # PyAV's stubs know one kind of several
    if SideDataType.DISPLAYMATRIX not in side_data:
        return None
    values = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), np.int32)[[0, 1, 3, 4]].tolist()
    scale = max(abs(value) for value in values) or 1
    right_x, right_y, down_x, down_y = (round(value / scale, 2) for value in values)
    try:
        return ORIENTATIONS[right_x, right_y, down_x, down_y]
    except KeyError as error:
        raise RefusedInput("unsupported_mode", f"display matrix {values}: expected quarter turns and flips") from error


def _is_known(head: bytes) -> bool:
    """Whether a file begins as MP4, AVI or Matroska do: if it cannot be opened, it is damaged."""
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return is_avi or head[4:8] in (b"ftyp", b"moov", b"mdat") or head.startswith(b"\x1a\x45\xdf\xa3")


@contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Whatever PyAV raises on a damaged file, of whatever type, refuses that file and not the job."""
    try:
        yield
    except RefusedInput:
        raise
    except av.FFmpegError as error:
        is_cut = isinstance(error, OSError | EOFError)
        raise RefusedInput("truncated" if is_cut else reason, f"cannot be read: {error!r:.200}") from error
    except MemoryError:
        raise
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error)) from error
    except Exception as error:
        raise RefusedInput(reason, f"cannot be read: {error!r:.200}") from error
