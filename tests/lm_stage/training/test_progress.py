"""The progress of a run: its counters, and its position in the stream of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import MixtureEntry
from lm_stage.data.shuffle import RowStream, StreamState
from lm_stage.training.options import SftOptions
from lm_stage.training.progress import STREAM_STATE, Progress
from lm_stage.training.step import Outcome
from tests.support.sft_samples import small_builder, write_lines

STATE = StreamState(1, 4096, 7, tuple(range(11)))


def test_outcomes_are_counted() -> None:
    progress = Progress()
    for outcome in (Outcome.APPLIED, Outcome.BAD, Outcome.EMPTY, Outcome.BAD, Outcome.RESCALED):
        progress.advance(outcome, STATE)
    assert progress == Progress(5, 1, 2, 2, STATE)
    progress.advance(Outcome.APPLIED, STATE)
    assert progress == Progress(6, 2, 2, 0, STATE)


def test_a_checkpoint_stores_everything() -> None:
    progress = Progress(6, 5, 1, 0, STATE)
    tensors = progress.to_tensors()
    assert {name: int(tensors[name][0]) for name in ("step", "taken", "bad_steps", "bad_in_a_row")} == {
        "step": 6,
        "taken": 5,
        "bad_steps": 1,
        "bad_in_a_row": 0,
    }
    assert Progress.from_tensors(tensors) == progress


def test_a_missing_counter_is_an_error() -> None:
    with pytest.raises(KeyError):
        Progress.from_tensors({"step": np.array([1])})


def test_a_checkpoint_without_a_position_replays_the_packing(tmp_path: Path) -> None:
    """Checkpoints of earlier versions; both ways lead to the same rows."""
    lines = write_lines(tmp_path / "t.jsonl", *({"text": "z" * (1 + index % 20)} for index in range(40)))
    mixture = Mixture([MixtureEntry(str(lines), "text")], small_builder(), 32)
    options = SftOptions((f"{lines},task=text",), "run", seed=3)
    stream = RowStream(mixture, options.seed, options.caption_dropout)
    stream.skip(5 * 6)
    with_position = Progress(5, 5, 0, 0, stream.state)
    tensors = with_position.to_tensors()
    del tensors[STREAM_STATE]
    resumed = [one.row_stream(mixture, options, 6) for one in (with_position, Progress.from_tensors(tensors))]
    assert resumed[0].state == resumed[1].state
    assert [next(resumed[0]) for _ in range(20)] == [next(resumed[1]) for _ in range(20)]
