"""Settings of a training run."""

from __future__ import annotations

from typing import Any

import pytest

from shared.codec import Codec
from shared.errors import UsageError
from vq_stage.training.options import TrainVQOptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "either --config"),
        ({"crop": 20}, "at least 32"),
        ({"clip_share": 2.0}, "0 to 1"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainVQOptions("s", "o", **{"config": "c", **changes})


def test_options_are_fitted_to_the_codec() -> None:
    video, images = Codec(None, 16, 8, 4), Codec(None, 16, spatial_factor=16, temporal_factor=1)
    assert TrainVQOptions("s", "o", config="c").fitted(video).clip_share == 0.2
    assert TrainVQOptions("s", "o", config="c").fitted(images).clip_share == 0
    with pytest.raises(UsageError, match="--crop 40: expected a multiple of 16"):
        TrainVQOptions("s", "o", config="c", crop=40).fitted(images)
    with pytest.raises(UsageError, match=r"--clip-share 0\.1: expected 0, because this tokenizer encodes images only"):
        TrainVQOptions("s", "o", config="c", clip_share=0.1).fitted(images)


def test_recorded_settings_leave_out_what_may_change_on_resume() -> None:
    one = TrainVQOptions("s", "o", config="c", reader_threads=1, save_every=7, device="cpu")
    other = TrainVQOptions("elsewhere", "o2", config="c", save_dtype="float16")
    assert one.to_json() == other.to_json()
    assert one.to_json() != TrainVQOptions("s", "o", config="c", crop=32).to_json()
