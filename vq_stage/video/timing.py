"""Timestamps of a container: ticks to seconds, and frame times read from packets without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

DEFAULT_FPS = 25
MAX_ROUNDING_S = 1e-3


@dataclass(frozen=True, slots=True)
class StreamClock:
    """Converts a stream's timestamps, in ticks of `time_base` seconds, to seconds after `origin_pts`.

    `frame_duration_s` is the duration of an average frame.
    """

    container_format: str
    time_base: Fraction
    frame_duration_s: float
    origin_pts: int = 0

    @classmethod
    def of_stream(cls, container: InputContainer, stream: VideoStream) -> StreamClock:
        time_base = stream.time_base or Fraction(1, av.time_base)
        return cls(container.format.name, time_base, 1 / float(stream.average_rate or DEFAULT_FPS))

    @property
    def tolerance_s(self) -> float:
        """Rounding error of a time in this container: half a tick, within limits."""
        return min(max(0.51 * float(self.time_base), 1e-6), MAX_ROUNDING_S)

    def seconds(self, pts: int) -> float:
        """Return the time of a timestamp in seconds after the first displayed frame."""
        return float((pts - self.origin_pts) * self.time_base)

    def duration_s(self, ticks: int) -> float:
        """Return a frame's duration in seconds, at least that of an average frame: not every container stores it."""
        return max(float(ticks * self.time_base), self.frame_duration_s)

    def display_time(self, timed: av.Packet | av.VideoFrame) -> int | None:
        """Return the display timestamp, if there is one.

        AVI stores none: its frames come out in display order, counted by the decoding timestamp.
        """
        return timed.dts if timed.pts is None or self.container_format == "avi" else timed.pts


@dataclass(frozen=True, slots=True)
class PacketTimes:
    """Frame times of a stream, read from its packets; `is_complete` is false if the header promises more."""

    start_times_s: list[float]
    end_s: float
    is_complete: bool


def read_packet_times(container: InputContainer, stream: VideoStream, clock: StreamClock) -> PacketTimes:
    """Read all packets of the file. If it is damaged, return the times of the packets before the damage."""
    packets: list[tuple[int, int]] = []  # (display time, duration) in ticks
    end_s, is_complete = 0.0, True  # the end over all streams: a header's duration may be that of the audio
    try:
        for packet in container.demux():
            time = clock.display_time(packet)
            if time is None or packet.is_discard:
                continue
            end_s = max(end_s, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                packets.append((time, packet.duration or 0))
                is_complete = is_complete and not packet.is_corrupt
    except av.FFmpegError:
        is_complete = False
    if "matroska" in clock.container_format:
        promised_s = (container.duration or 0) / av.time_base
        is_complete = is_complete and promised_s <= end_s + 2 * clock.frame_duration_s
    return _packet_times(sorted(packets), clock, is_complete and len(packets) >= stream.frames)


def _packet_times(packets: list[tuple[int, int]], clock: StreamClock, is_complete: bool) -> PacketTimes:
    origin = packets[0][0] if packets and clock.container_format == "avi" else clock.origin_pts
    packets = [packet for packet in packets if packet[0] >= origin]
    start_times_s = [float((time - origin) * clock.time_base) for time, _ in packets]
    ends_s = [start_s + clock.duration_s(ticks) for start_s, (_, ticks) in zip(start_times_s, packets)]
    return PacketTimes(start_times_s, max(ends_s, default=0.0), is_complete)


def frame_count_and_duration(stream: VideoStream, clock: StreamClock) -> tuple[int, float] | None:
    """Return the number of frames and the duration in seconds if an MP4 or MOV header lists every frame.

    The header lists decoding times. At a variable frame rate they are display times only if no frame is reordered.
    """
    entries = stream.index_entries
    if "mov" not in clock.container_format or not stream.duration or not 0 < stream.frames <= len(entries):
        return None
    kept = [entry.timestamp for entry in entries if not entry.is_discard]
    gaps = np.diff(kept)
    if stream.codec_context.has_b_frames and gaps.size and np.ptp(gaps) > 1:
        return None
    return len(kept), float(stream.duration * clock.time_base)
