"""Open a video file of any kind."""

from __future__ import annotations

from typing import BinaryIO

from vq_stage.video.animation import Animation, is_animation
from vq_stage.video.container import ContainerVideo
from vq_stage.video.video_file import VideoFile, read_signature


def open_video(file: BinaryIO) -> VideoFile:
    """Open a video by its content, not its name; `file` must be seekable and stay open while the video is read.

    Raises RefusedInput: `empty`, `unreadable`, `not_a_video`, `no_video`, `truncated`, `too_small`, `too_large`,
    `aspect_ratio` or `unsupported_mode`. Damage further into the file surfaces in `info` and `frames_at`.
    """
    return Animation(file) if is_animation(read_signature(file)) else ContainerVideo(file)
