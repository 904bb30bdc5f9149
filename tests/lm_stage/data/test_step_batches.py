"""The batches of each step: divided among processes, and the same from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from lm_stage.data.batch import TrainingBatch
from lm_stage.data.mixture import Mixture, MixtureEntry
from lm_stage.data.shuffle import RowStream
from lm_stage.data.step_batches import BatchDivision, held_out_batches, step_batches
from tests.support.sft_samples import small_builder, write_lines

STEPS = 12
TEXTS = 30


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixture]:
    path: Path = tmp_path_factory.mktemp("batches") / "t.jsonl"
    write_lines(path, *({"text": "z" * (1 + index % 20)} for index in range(TEXTS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_stage.data.shuffle.WINDOW", 8)
        yield Mixture([MixtureEntry(str(path), "text")], small_builder(), 32)


def keys(batches: list[TrainingBatch]) -> list[tuple[str, ...]]:
    return [batch.keys for batch in batches]


def test_micro_batches_go_to_processes_in_turn() -> None:
    rows = list(range(12))
    own = [BatchDivision(2, 3, rank, 2).own_micro_batches(rows) for rank in range(2)]
    assert own == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]
    assert BatchDivision(2, 3, 0, 2).rows_per_step == 12


def test_steps_continue_from_the_state_after_any_step(mixture: Mixture) -> None:
    division = BatchDivision(2, 2)
    steps = list(islice(step_batches(RowStream(mixture, 5, 0.0), division), STEPS))
    for number, step in enumerate(steps[:-1], 1):
        resumed = step_batches(RowStream(mixture, 5, 0.0, step.stream_state), division)
        for found, expected in zip(islice(resumed, STEPS - number), steps[number:]):
            assert keys(found.batches) == keys(expected.batches)
            assert found.stream_state == expected.stream_state


def test_states_do_not_depend_on_the_number_of_processes(mixture: Mixture) -> None:
    """A run may continue on another number of processes with the same global batch size."""
    alone = list(islice(step_batches(RowStream(mixture, 5, 0.0), BatchDivision(2, 2)), STEPS))
    streams = [step_batches(RowStream(mixture, 5, 0.0), BatchDivision(2, 1, rank, 2)) for rank in range(2)]
    for whole, *parts in zip(alone, *streams):
        assert keys(whole.batches) == [key for part in parts for key in keys(part.batches)]
        assert {part.stream_state for part in parts} == {whole.stream_state}


def test_held_out_batches_cover_every_sample_once(mixture: Mixture) -> None:
    batches = [held_out_batches(mixture, BatchDivision(4, 1, rank, 2)) for rank in range(2)]
    assert {batch.token_ids_BL.shape for part in batches for batch in part} == {(4, 32)}
    found = sorted(key for part in batches for batch in part for key in batch.keys)
    assert found == sorted(mixture.sample_sets[0].keys)
