"""How far the encode worker reads ahead of the device."""

from __future__ import annotations

from shared.dataset.plan import UnitSize
from vq_stage.encode.worker import READ_AHEAD, max_read_ahead


def test_long_clips_are_not_read_far_ahead() -> None:
    picture, clip, film = UnitSize(1024, 1024, 1), UnitSize(1024, 1024, 1, 16), UnitSize(1024, 1024, 1, 400)
    assert max_read_ahead([picture], reader_threads=2) == READ_AHEAD
    assert max_read_ahead([picture, clip], reader_threads=2) == 512 // 48
    assert max_read_ahead([film], reader_threads=2) == 4
    assert max_read_ahead([UnitSize(0, 0, 9)], reader_threads=2) == max_read_ahead([], reader_threads=2) == READ_AHEAD
