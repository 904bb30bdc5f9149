"""Videos in containers (MP4, MOV, Matroska, WebM, AVI, MPEG, …), decoded by FFmpeg's libraries through PyAV."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain, dropwhile
from typing import BinaryIO

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from shared.errors import RefusedInput
from vq_stage.video.rendering import MAX_FRAME_PIXELS, FrameRenderer
from vq_stage.video.timing import PacketTimes, StreamClock, frame_count_and_duration, read_packet_times
from vq_stage.video.video_file import TimedFrame, VideoInfo, frames_displayed_at, read_signature

# FFmpeg decides by content, not by suffix. Playlists, scripts and numbered images are not listed, since they would open
# other files and addresses; a listed format that refers to another file finds no protocol to open it with.
OPTIONS = {"format_whitelist": "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg", "protocol_whitelist": "none"}
SEEK_LEADS_S = (0.0, 2.0, 10.0)  # how much earlier to seek to a keyframe, before falling back to the first frame

logger = logging.getLogger(__name__)


class ContainerVideo:
    """A video stream of a container as a VideoFile. Non-square pixels are stretched, rotation and flips applied.

    Every read opens the container again: decoders keep state, and no frame may depend on what was read before.
    Reads share the file, so only one may be in progress at a time.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        with self._opened() as (container, stream):
            self._clock = StreamClock.of_stream(container, stream)
            pixel_aspect = float(stream.sample_aspect_ratio or 1)
            first = next(self._decode(container, stream), None)
            if first is None:
                raise RefusedInput("truncated", "no frame can be decoded")
            self._clock = replace(self._clock, origin_pts=first.pts or 0)
            self._renderer = FrameRenderer.for_frame(first, pixel_aspect)

    @cached_property
    def info(self) -> VideoInfo:
        """Read from the header of MP4 and MOV; otherwise, and for fragmented files, packets are counted."""
        with self._opened() as (_, stream):
            nominal_fps = float(stream.average_rate or 0)
            listed = frame_count_and_duration(stream, self._clock)
        count, duration_s = listed or (len(self._packet_times.start_times_s), self._packet_times.end_s)
        if count < 1 or not 0 < duration_s < math.inf:
            raise RefusedInput("too_short", f"{count} frames in {duration_s:.3f} s")
        fps = count / duration_s
        if abs(nominal_fps - fps) < 0.01 * fps:  # equal up to the rounding of timestamps
            fps = nominal_fps
        return VideoInfo(*self._renderer.displayed_size, fps, duration_s, count)

    @property
    def start_times_s(self) -> Sequence[float]:
        return self._packet_times.start_times_s

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        for frame in frames_displayed_at(self._frames_from(times_s[0]), times_s, self._clock.tolerance_s):
            if frame.is_corrupt:
                raise RefusedInput("truncated", f"the frame at {self._clock.seconds(frame.pts or 0):.3f} s is damaged")
            with _refusing_damage("truncated"):
                image = self._renderer.render(frame)
            yield image

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        with _refusing_damage("truncated" if _is_container(read_signature(self._file)) else "not_a_video"):
            self._file.seek(0)
            container = av.open(self._file, "r", options=OPTIONS)
        with container, _refusing_damage("truncated"):
            yield container, _video_stream(container)

    def _frames_from(self, time_s: float) -> Iterator[TimedFrame[av.VideoFrame]]:
        """Yield frames starting with one that is displayed at or before `time_s`.

        A container's index holds decoding times, so the keyframe it finds may be displayed later than requested, and
        frames that come out before a keyframe may lack their references. Hence the first keyframe has to be early
        enough.
        """
        for lead_s in SEEK_LEADS_S:
            if time_s - lead_s <= 0:
                break
            frames = dropwhile(lambda frame: not frame.key_frame, self._decode_file(time_s - lead_s))
            try:
                first = next(frames, None)
            except RefusedInput:
                continue
            if first is not None and self._clock.seconds(first.pts or 0) <= time_s + self._clock.tolerance_s:
                return map(self._timed, chain((first,), frames))
        return map(self._timed, self._decode_file())

    def _timed(self, frame: av.VideoFrame) -> TimedFrame[av.VideoFrame]:
        start_s = self._clock.seconds(frame.pts or 0)
        return TimedFrame(start_s, start_s + self._clock.duration_s(frame.duration or 0), frame)

    def _decode_file(self, seek_s: float | None = None) -> Iterator[av.VideoFrame]:
        """Yield all frames in display order, or those from a keyframe near `seek_s` on."""
        with self._opened() as (container, stream):
            if seek_s is not None:
                offset = math.floor((seek_s + self._clock.tolerance_s) / self._clock.time_base)
                container.seek(self._clock.origin_pts + offset, stream=stream)
            yield from self._decode(container, stream, is_to_end=True)

    def _decode(
        self, container: InputContainer, stream: VideoStream, is_to_end: bool = False
    ) -> Iterator[av.VideoFrame]:
        """Yield frames whose `pts` are all set. With `is_to_end`, raise RefusedInput if the file is incomplete."""
        next_pts, has_decoded = 0, False
        for packet in container.demux(stream):
            is_end = packet.dts is None and packet.size == 0
            if packet.is_corrupt or (is_end and is_to_end and not self._is_complete):
                # the decoder still holds frames, but frames between them may be missing
                raise RefusedInput("truncated", "the file is cut short or damaged")
            for frame in _decode_packet(packet, has_decoded):
                time = self._clock.display_time(frame)
                frame.pts = next_pts if time is None else time
                next_pts = frame.pts + round(self._clock.frame_duration_s / self._clock.time_base)
                has_decoded = True
                yield frame

    @cached_property
    def _is_complete(self) -> bool:
        """Whether the file holds what its header promises, as far as that can be determined."""
        with self._opened() as (_, stream):
            if frame_count_and_duration(stream, self._clock) is not None:
                last = stream.index_entries[len(stream.index_entries) - 1]
                return last.pos + last.size <= self._file.seek(0, os.SEEK_END)
        return self._packet_times.is_complete

    @cached_property
    def _packet_times(self) -> PacketTimes:
        with self._opened() as (container, stream):
            return read_packet_times(container, stream, self._clock)


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the first video stream that is not a cover image, set to decode in one thread. Raises RefusedInput."""
    kinds = {stream.type for stream in container.streams}
    if not kinds & {"video", "audio", "subtitle"}:
        raise RefusedInput("truncated", "the header ends before the first stream")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise RefusedInput("no_video", f"expected a video stream, found only {', '.join(sorted(kinds))}")
    stream = streams[0]
    if stream.codec_context is None:
        raise RefusedInput("unsupported_mode", "FFmpeg has no decoder for this video codec")
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise RefusedInput(
            "too_large", f"{stream.height}×{stream.width} pixels, expected at most {MAX_FRAME_PIXELS} per frame"
        )
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # frames may differ from the header
    stream.thread_type = ThreadType.NONE
    stream.thread_count = 1
    return stream


def _decode_packet(packet: av.Packet, has_decoded: bool) -> list[av.VideoFrame]:
    """Decode a packet. Recordings may start between keyframes: packets before the first one give no frames."""
    if packet.size == 0 and packet.dts is not None:  # the encoder dropped this frame; it is not the end
        return []
    try:
        return packet.decode()
    except av.InvalidDataError:
        if has_decoded:
            raise
        return []


def _is_container(signature: bytes) -> bool:
    """Return whether a file starts as MP4, AVI or Matroska do: if it cannot be opened, it is damaged."""
    is_avi = signature[:4] == b"RIFF" and signature[8:12] == b"AVI "
    return is_avi or signature[4:8] in (b"ftyp", b"moov", b"mdat") or signature.startswith(b"\x1a\x45\xdf\xa3")


@contextmanager
def _refusing_damage(reason: str) -> Iterator[None]:
    """Turn any exception of PyAV into a refusal of this file, so that one damaged file does not stop the job.

    Tracebacks of exceptions that are not FFmpeg's go to the debug log.
    """
    try:
        yield
    except RefusedInput:
        raise
    except av.FFmpegError as error:  # FFmpeg's own out-of-memory error too: damaged headers ask for absurd sizes
        is_cut = isinstance(error, OSError | EOFError)
        raise RefusedInput("truncated" if is_cut else reason, f"cannot be read: {error!r:.200}") from error
    except MemoryError:
        raise
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error)) from error
    except Exception as error:
        logger.debug("a video cannot be read", exc_info=True)
        raise RefusedInput(reason, f"cannot be read: {error!r:.200}") from error
