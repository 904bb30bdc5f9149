"""Rows as arrays: tokens, targets, weights and segments, and damaged samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from lm_stage.data.batch import PADDING, BatchDivision, TrainingBatch, build_batch, held_out_batches, step_batches
from lm_stage.data.mixture import Mixture
from lm_stage.data.options import LossWeights, MixtureEntry
from lm_stage.data.sequences import SequenceBuilder, TrainingSequence
from lm_stage.data.shuffle import PackedSample, RowStream
from shared.dataset.commit import UnitResult
from shared.dataset.rows import CodeRecord
from shared.errors import DatasetError
from tests.support import handmade
from tests.support.renderers import small_renderer
from tests.support.sft_samples import small_builder, write_lines

ROW = 100
KEYS = ("one", "two", "three")
LINES = ({"text": "a red apple"}, {"question": "what", "answer": "a pear"})
IMAGE_0, IMAGE_1, IMAGE_2 = (PackedSample(0, index, False) for index in range(3))
CAPTIONLESS_1 = PackedSample(0, 1, True)
TEXT, ANSWER = PackedSample(1, 0, False), PackedSample(1, 1, False)
ROWS = [[IMAGE_1, TEXT, CAPTIONLESS_1], [ANSWER], [], [TEXT, TEXT]]


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    return open_mixture(tmp_path, [handmade.record(index, key) for index, key in enumerate(KEYS)])


@pytest.fixture
def with_damage(tmp_path: Path) -> Mixture:
    """The same mixture, with a code outside the codebook in the second image."""
    rows = [handmade.record(index, key) for index, key in enumerate(KEYS)]
    rows[1].codes_THW[0, 1, 2] = handmade.CODEBOOK_SIZE
    return open_mixture(tmp_path, rows)


def open_mixture(root: Path, rows: Sequence[CodeRecord]) -> Mixture:
    dataset, plan = handmade.freeze(root / "codes", KEYS)
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), plan)
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(len(KEYS))]), plan)
    (root / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    renderer = small_renderer(["a red apple"] * 3, handmade.CODEBOOK_SIZE)
    builder = SequenceBuilder(renderer, LossWeights(visual=0.5))
    return Mixture([MixtureEntry(str(root / "codes")), MixtureEntry(str(root / "lines.jsonl"), "text")], builder, ROW)


def sequences(mixture: Mixture, row: Sequence[PackedSample]) -> list[TrainingSequence]:
    return [mixture.sample_sets[sample.sample_set].sequence(sample.index, sample.drop_caption) for sample in row]


def test_a_row_is_its_samples_and_padding(mixture: Mixture) -> None:
    batch, pad = build_batch(ROWS, mixture), mixture.builder.layout.pad
    assert batch.token_ids_BL.shape == (len(ROWS), ROW)
    for number, row in enumerate(ROWS):
        parts = sequences(mixture, row)
        used = sum(len(part.token_ids) for part in parts)
        assert used <= ROW
        tokens = [token for part in parts for token in part.token_ids.tolist()]
        positions = [position for part in parts for position in range(len(part.token_ids))]
        segments = [segment for segment, part in enumerate(parts) for _ in part.token_ids]
        assert batch.token_ids_BL[number].tolist() == tokens + [pad] * (ROW - used)
        assert batch.positions_BL[number].tolist() == positions + [0] * (ROW - used)
        assert batch.segments_BL[number].tolist() == segments + [PADDING] * (ROW - used)


def test_every_token_predicts_the_next_of_its_own_sample(mixture: Mixture) -> None:
    batch, pad = build_batch(ROWS, mixture), mixture.builder.layout.pad
    for number, row in enumerate(ROWS):
        targets, weights = [], []
        for part in sequences(mixture, row):
            targets += [*part.token_ids[1:].tolist(), pad]
            weights += [*part.weights[1:].tolist(), 0.0]
        padding = ROW - len(targets)
        assert batch.targets_BL[number].tolist() == targets + [pad] * padding
        assert batch.weights_BL[number].tolist() == weights + [0.0] * padding


def test_arrays_are_those_the_step_takes(mixture: Mixture) -> None:
    batch = build_batch(ROWS, mixture)
    types = {field.name: getattr(batch, field.name).dtype for field in fields(TrainingBatch) if field.name != "keys"}
    assert types.pop("weights_BL") == np.float32
    assert set(types.values()) == {np.dtype(np.int32)}


def test_a_row_may_be_full_to_the_last_token(mixture: Mixture) -> None:
    [sequence] = sequences(mixture, [ANSWER])
    full = Mixture(mixture.entries, mixture.builder, len(sequence.token_ids))
    batch = build_batch([[ANSWER]], full)
    assert batch.token_ids_BL[0].tolist() == sequence.token_ids.tolist()
    assert batch.targets_BL[0, -2:].tolist() == [mixture.builder.layout.eos, mixture.builder.layout.pad]
    assert batch.useful_tokens == len(sequence.token_ids)


def test_keys_are_those_of_the_samples(mixture: Mixture) -> None:
    keys = ("two", "lines.jsonl#1", "two", "lines.jsonl#2", "lines.jsonl#1", "lines.jsonl#1")
    assert build_batch(ROWS, mixture).keys == keys


def test_totals_count_what_is_there(mixture: Mixture) -> None:
    batch = build_batch(ROWS, mixture)
    parts = [part for row in ROWS for part in sequences(mixture, row)]
    assert batch.useful_tokens == sum(len(part.token_ids) for part in parts)
    answer, text = len(mixture.builder.encode("a pear")) + 1, len(mixture.builder.encode("a red apple")) + 1
    image = 6 * 0.5 + 5  # six codes; two EOL, EOF, EOI, EOS
    assert batch.total_weight == 2 * image + answer + 3 * text
    empty = build_batch([[], []], mixture)
    assert (empty.useful_tokens, empty.total_weight, empty.keys) == (0, 0.0, ())


def test_the_loss_covers_each_weighted_position_once(mixture: Mixture) -> None:
    """Positions without a weight fill up the bucket."""
    batch = build_batch(ROWS, mixture)
    indices, targets, weights = batch.supervised(batch.target_bucket)
    flat = batch.weights_BL.reshape(-1)
    weighted, eighth = set(np.flatnonzero(flat).tolist()), -(-flat.size // 8)
    assert len(set(indices.tolist())) == len(indices)
    assert weighted <= set(indices.tolist())
    assert len(indices) == -(-len(weighted) // eighth) * eighth
    np.testing.assert_array_equal(weights, flat[indices])
    np.testing.assert_array_equal(targets, batch.targets_BL.reshape(-1)[indices])
    empty = build_batch([[], []], mixture)
    assert len(empty.supervised(empty.target_bucket)[0]) == 2 * ROW // 8
    assert len(batch.supervised(8)[0]) == flat.size


def test_a_damaged_sample_is_named(with_damage: Mixture) -> None:
    with pytest.raises(DatasetError, match=rf"{with_damage.entries[0].path}.*'two'.*512"):
        build_batch([[IMAGE_0, IMAGE_1, TEXT]], with_damage)
    assert build_batch([[IMAGE_0, TEXT, IMAGE_2]], with_damage).keys == ("one", "lines.jsonl#1", "three")


def test_a_damaged_sample_is_left_out(with_damage: Mixture) -> None:
    damaged: list[str] = []
    found = build_batch([[IMAGE_0, IMAGE_1, TEXT], [CAPTIONLESS_1], [IMAGE_2]], with_damage, damaged.append)
    assert len(damaged) == 2
    assert all(with_damage.entries[0].path in line and "'two'" in line for line in damaged)
    expected = build_batch([[IMAGE_0, TEXT], [], [IMAGE_2]], with_damage)
    for name in ("token_ids_BL", "targets_BL", "weights_BL", "positions_BL"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    first, text = (len(part.token_ids) for part in sequences(with_damage, [IMAGE_0, TEXT]))
    segments = found.segments_BL[0].tolist()
    assert len(set(segments[:first])) == len(set(segments[first : first + text])) == 1
    assert len({segments[0], segments[first], PADDING}) == 3
    np.testing.assert_array_equal(found.segments_BL == PADDING, expected.segments_BL == PADDING)
    assert (found.useful_tokens, found.total_weight) == (expected.useful_tokens, expected.total_weight)


def test_sound_samples_name_no_damage(mixture: Mixture) -> None:
    damaged: list[str] = []
    build_batch(ROWS, mixture, damaged.append)
    assert damaged == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("Unexpected end of stream")])
def test_a_sample_that_cannot_be_read_is_named(
    error: Exception, mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> TrainingSequence:
        raise error

    monkeypatch.setattr(type(mixture.sample_sets[0]), "sequence", fail)
    with pytest.raises(
        DatasetError, match=rf"{mixture.entries[0].path}: row 'two': cannot be read: .*{error.args[-1]}"
    ):
        build_batch([[IMAGE_1]], mixture)


STEPS = 12
TEXTS = 30


@pytest.fixture(scope="module")
def texts_mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixture]:
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


def test_steps_continue_from_the_state_after_any_step(texts_mixture: Mixture) -> None:
    division = BatchDivision(2, 2)
    steps = list(islice(step_batches(RowStream(texts_mixture, 5, 0.0), division), STEPS))
    for number, step in enumerate(steps[:-1], 1):
        resumed = step_batches(RowStream(texts_mixture, 5, 0.0, step.stream_state), division)
        for found, expected in zip(islice(resumed, STEPS - number), steps[number:]):
            assert keys(found.batches) == keys(expected.batches)
            assert found.stream_state == expected.stream_state


def test_states_do_not_depend_on_the_number_of_processes(texts_mixture: Mixture) -> None:
    """A run may continue on another number of processes with the same global batch size."""
    alone = list(islice(step_batches(RowStream(texts_mixture, 5, 0.0), BatchDivision(2, 2)), STEPS))
    streams = [step_batches(RowStream(texts_mixture, 5, 0.0), BatchDivision(2, 1, rank, 2)) for rank in range(2)]
    for whole, *parts in zip(alone, *streams):
        assert keys(whole.batches) == [key for part in parts for key in keys(part.batches)]
        assert {part.stream_state for part in parts} == {whole.stream_state}


def test_held_out_batches_cover_every_sample_once(texts_mixture: Mixture) -> None:
    batches = [held_out_batches(texts_mixture, BatchDivision(4, 1, rank, 2)) for rank in range(2)]
    assert {batch.token_ids_BL.shape for part in batches for batch in part} == {(4, 32)}
    found = sorted(key for part in batches for batch in part for key in batch.keys)
    assert found == sorted(texts_mixture.sample_sets[0].keys)
