"""Opening a video file of any kind, and keeping videos open from clip to clip."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, BinaryIO

from shared.errors import RefusedInput
from vq_stage.video.animation import Animation, is_animation
from vq_stage.video.container import ContainerVideo
from vq_stage.video.video_file import VideoFile, read_signature

MAX_IDLE = 4


def open_video(file: BinaryIO) -> VideoFile:
    """Open a video by its content, not its name; `file` must be seekable and stay open while the video is read.

    Raises RefusedInput: `empty`, `unreadable`, `not_a_video`, `no_video`, `truncated`, `too_small`, `too_large`,
    `aspect_ratio` or `unsupported_mode`. Damage further into the file surfaces in `info` and `frames_at`.
    """
    return Animation(file) if is_animation(read_signature(file)) else ContainerVideo(file)


class OpenVideos:
    """Opens videos by `open_one(*arguments)`, and keeps a few of them open, for the next reader of the same arguments.

    An animation is thus decoded on from its last clip, and a container is searched once. Thread-safe: every video has
    one reader at a time, and readers that overlap get a video each.
    """

    def __init__(self, open_one: Callable[..., AbstractContextManager[VideoFile]], max_idle: int = MAX_IDLE):
        self._open_one = open_one
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._idle: list[tuple[tuple[Any, ...], VideoFile, ExitStack]] = []  # the longest idle one comes first

    @contextmanager
    def open(self, *arguments: Any) -> Iterator[VideoFile]:
        """Open a video, or take one that is already open. Raises what opening raises."""
        video, stack = self._taken(arguments)
        is_reusable = False
        try:
            yield video
            is_reusable = True
        except RefusedInput:
            is_reusable = True
            raise
        finally:
            if is_reusable:
                self._keep(arguments, video, stack)
            else:
                stack.close()

    def close(self) -> None:
        """Close the idle videos, and each of the others as soon as its reader is done."""
        with self._lock:
            self._max_idle, idle, self._idle = 0, self._idle, []
        for _, _, stack in idle:
            stack.close()

    def _taken(self, arguments: tuple[Any, ...]) -> tuple[VideoFile, ExitStack]:
        with self._lock:
            for index, (key, video, stack) in enumerate(self._idle):
                if key == arguments:  # the longest idle one: of an animation's decoders, it is the furthest behind
                    del self._idle[index]
                    return video, stack
        stack = ExitStack()
        return stack.enter_context(self._open_one(*arguments)), stack

    def _keep(self, arguments: tuple[Any, ...], video: VideoFile, stack: ExitStack) -> None:
        with self._lock:
            self._idle.append((arguments, video, stack))
            count = max(0, len(self._idle) - self._max_idle)
            surplus, self._idle = self._idle[:count], self._idle[count:]
        for _, _, stack in surplus:
            stack.close()
