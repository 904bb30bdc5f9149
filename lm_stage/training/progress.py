"""How far a run is: the counters of its steps, and its position in the stream of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.shuffle import RowStream, StreamState
from lm_stage.training.options import SftOptions
from lm_stage.training.step import Outcome

# Field -> name in the state file of a checkpoint.
COUNTERS = {"step": "step", "applied_steps": "taken", "bad_steps": "bad_steps", "bad_in_a_row": "bad_in_a_row"}
STREAM_STATE = "row_stream.state"  # checkpoints of earlier versions do not have it
PROGRESS_TENSORS = (*COUNTERS.values(), STREAM_STATE)


@dataclass(slots=True)
class Progress:
    """`step` counts all steps, `applied_steps` those that changed weights, `bad_steps` those without a finite loss."""

    step: int = 0
    applied_steps: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    stream_state: StreamState | None = None

    def advance(self, outcome: Outcome, stream_state: StreamState) -> None:
        self.step += 1
        self.stream_state = stream_state
        if outcome is Outcome.APPLIED:
            self.applied_steps += 1
            self.bad_in_a_row = 0
        elif outcome is Outcome.BAD:
            self.bad_steps += 1
            self.bad_in_a_row += 1

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of a checkpoint's state file."""
        tensors = {name: np.array([getattr(self, field)]) for field, name in COUNTERS.items()}
        return tensors if self.stream_state is None else {**tensors, STREAM_STATE: self.stream_state.to_array()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Progress:
        """Read what `to_tensors` returned. Raises KeyError or ValueError if a counter is missing or malformed."""
        counters = {field: int(tensors[name][0]) for field, name in COUNTERS.items()}
        state = tensors.get(STREAM_STATE)
        return cls(**counters, stream_state=None if state is None else StreamState.from_array(state))

    def row_stream(self, mixture: Mixture, options: SftOptions, rows_per_step: int) -> RowStream:
        """Return the stream of rows that the next step reads from.

        A checkpoint without the state of the stream replays the packing of all earlier steps.
        """
        stream = RowStream(mixture, options.seed, options.caption_dropout, self.stream_state)
        if self.stream_state is None:
            stream.skip(self.step * rows_per_step)
        return stream
