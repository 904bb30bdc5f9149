"""The order of training samples: weights, windows, dropped captions, and streams that continue from any state."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import LossWeights, MixtureEntry
from lm_stage.data.packing import pack_best_fit
from lm_stage.data.sequences import SequenceBuilder
from lm_stage.data.shuffle import PackedSample, RowStream, StreamState, drops_caption, epoch_order
from shared.dataset.commit import UnitResult
from tests.support import handmade
from tests.support.renderers import small_renderer

WINDOW = 16  # small, so that an epoch of so few samples has several
PICTURES, TEXTS, ROW = 40, 11, 80
DROPOUT = 0.3
MANY = 4000


@pytest.fixture(scope="module", autouse=True)
def small_window() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_stage.data.shuffle.WINDOW", WINDOW)
        yield


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    renderer = small_renderer(["a red apple", "caption"] * 3, handmade.CODEBOOK_SIZE)
    return SequenceBuilder(renderer, LossWeights())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`codes`: pictures with captions of 1 to 31 tokens; `texts.jsonl`: lines of 1 to 11."""
    root = tmp_path_factory.mktemp("order")
    write_pictures(root / "codes", [f"k{index}" for index in range(PICTURES)])
    lines = (json.dumps({"text": "z" * (1 + index)}) + "\n" for index in range(TEXTS))
    (root / "texts.jsonl").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def mixture(root: Path, builder: SequenceBuilder) -> Mixture:
    return mixed(root, builder)


def write_pictures(path: Path, keys: Sequence[str]) -> None:
    dataset, plan = handmade.freeze(path, keys)
    rows = [
        replace(handmade.record(index, key), text="z" * (1 + 7 * index % 31), codes_THW=np.zeros((1, 1, 1), np.uint16))
        for index, key in enumerate(keys)
    ]
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), plan)
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(len(keys))]), plan)


def mixed(
    root: Path, builder: SequenceBuilder, weights: tuple[float, float] = (1.0, 1.0), row_length: int = ROW
) -> Mixture:
    sources = [
        MixtureEntry(str(root / "codes"), "image", weights[0]),
        MixtureEntry(str(root / "texts.jsonl"), "text", weights[1]),
    ]
    return Mixture(sources, builder, row_length)


def epochs(mixture: Mixture, count: int, seed: int = 0, dropout: float = DROPOUT) -> list[list[list[PackedSample]]]:
    """Return the rows of the first epochs."""
    rows, found = RowStream(mixture, seed, dropout), []
    for epoch in range(count):
        left, taken = len(epoch_order(mixture, seed, epoch)), []
        while left > 0:
            taken.append(next(rows))
            left -= len(taken[-1])
        assert left == 0, "no row holds samples of two epochs"
        found.append(taken)
    return found


def identities(rows: Sequence[Sequence[PackedSample]]) -> list[tuple[int, int]]:
    return [(sample.sample_set, sample.index) for row in rows for sample in row]


def first_rows(mixture: Mixture, seed: int, count: int = 12) -> list[list[PackedSample]]:
    return list(islice(RowStream(mixture, seed, DROPOUT), count))


def test_an_epoch_has_every_sample_once(mixture: Mixture) -> None:
    everything = [(0, index) for index in range(PICTURES)] + [(1, index) for index in range(TEXTS)]
    for rows in epochs(mixture, 3):
        assert sorted(identities(rows)) == everything


def test_epochs_differ(mixture: Mixture) -> None:
    orders = [identities(rows) for rows in epochs(mixture, 3)]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(
    ("weights", "totals", "times"),
    [
        ((0.5, 1.0), (20, 11), ({0, 1}, {1})),
        ((1.0, 0.5), (40, 6), ({1}, {0, 1})),
        ((2.0, 1.0), (80, 11), ({2}, {1})),
        ((1.5, 3.0), (60, 33), ({1, 2}, {3})),
        ((0.001, 0.001), (1, 1), ({0, 1}, {0, 1})),
    ],
)
def test_weights_say_how_often_a_sample_is_seen(
    root: Path,
    builder: SequenceBuilder,
    weights: tuple[float, float],
    totals: tuple[int, int],
    times: tuple[set[int], set[int]],
) -> None:
    for rows in epochs(mixed(root, builder, weights), 2):
        seen = Counter(identities(rows))
        for source, size in enumerate((PICTURES, TEXTS)):
            counts = [seen[source, index] for index in range(size)]
            assert (sum(counts), set(counts)) == (totals[source], times[source])


def test_half_of_a_source_is_another_half_in_the_next_epoch(root: Path, builder: SequenceBuilder) -> None:
    first, second = (set(identities(rows)) for rows in epochs(mixed(root, builder, (0.5, 1.0)), 2))
    assert first != second


def test_sources_are_mixed(mixture: Mixture) -> None:
    order = [source for source, _ in epoch_order(mixture, 0, 0).tolist()]
    assert order not in (sorted(order), sorted(order, reverse=True))
    assert 1 in order[: PICTURES // 2]
    assert 1 in order[PICTURES // 2 :]


def test_rows_hold_one_window_of_samples_after_the_other(mixture: Mixture) -> None:
    [rows] = epochs(mixture, 1)
    order = [tuple(member) for member in epoch_order(mixture, 0, 0).tolist()]
    for start in range(0, len(order), WINDOW):
        taken = 0
        expected = sorted(order[start : start + WINDOW])
        while sum(map(len, rows[:taken])) < len(expected):
            taken += 1
        assert sorted(identities(rows[:taken])) == expected
        rows = rows[taken:]


def test_rows_of_a_window_do_not_go_from_long_to_short_samples(mixture: Mixture) -> None:
    lengths = [
        int(mixture.sample_sets[row[0].sample_set].lengths[row[0].index]) for row in epochs(mixture, 1, 0, 0.0)[0]
    ]
    assert lengths[:4] != sorted(lengths[:4], reverse=True), "as they come from packing"


def test_rows_are_full_of_what_is_in_them(mixture: Mixture) -> None:
    """By the lengths of the sequences that are built, with and without captions."""
    used = []
    for rows in epochs(mixture, 3):
        for row in rows:
            lengths = [len(mixture.sample_sets[p.sample_set].sequence(p.index, p.drop_caption).token_ids) for p in row]
            used.append(sum(lengths))
    assert max(used) <= ROW
    assert sum(used) > 0.8 * ROW * len(used), "the last window of an epoch has three samples"


def test_dropped_captions_leave_room_for_more_samples(mixture: Mixture) -> None:
    kept, dropped = (epochs(mixture, 1, 0, dropout)[0] for dropout in (0.0, 1.0))
    assert len(dropped) < len(kept)


def test_samples_longer_than_a_row_never_occur(root: Path, builder: SequenceBuilder) -> None:
    mixture = mixed(root, builder, (2.0, 1.0), row_length=24)
    fitting = {(n, int(index)) for n, order in enumerate(mixture.sample_indices) for index in order}
    assert 0 < len(fitting) < PICTURES + TEXTS
    for rows in epochs(mixture, 2):
        assert set(identities(rows)) == fitting


def test_a_stream_continues_from_the_state_after_any_row(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every row of two epochs and more, and without packing more than the window that the row is in."""
    stream, rows, states = RowStream(mixture, 7, DROPOUT), [], []
    for _ in range(70):
        states.append(stream.state)
        rows.append(next(stream))
    assert sum(map(len, rows)) > 2 * (PICTURES + TEXTS), "into the third epoch"
    packed: list[int] = []
    monkeypatch.setattr(
        "lm_stage.data.shuffle.pack_best_fit",
        lambda lengths, row_length: packed.append(len(lengths)) or pack_best_fit(lengths, row_length),
    )
    for number, state in enumerate(states):
        packed.clear()
        resumed = RowStream(mixture, 7, DROPOUT, StreamState.from_array(state.to_array()))
        assert (resumed.state, len(packed)) == (state, 1)
        assert [next(resumed) for _ in range(number, 70)] == rows[number:]
        assert resumed.state == stream.state


@given(begin=st.integers(0, 60))
def test_skipped_rows_lead_to_the_same_state(mixture: Mixture, begin: int) -> None:
    """Checkpoints without a state are resumed this way."""
    skipped, read = RowStream(mixture, 7, DROPOUT), RowStream(mixture, 7, DROPOUT)
    skipped.skip(begin)
    assert len(list(islice(read, begin))) == begin
    assert skipped.state == read.state
    assert list(islice(skipped, 20)) == list(islice(read, 20))


@given(steps=st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=10))
def test_the_order_does_not_depend_on_steps_and_restarts(mixture: Mixture, steps: list[tuple[int, bool]]) -> None:
    stream, seen = RowStream(mixture, 7, DROPOUT), []
    for size, is_restarted in steps:
        if is_restarted:
            stream = RowStream(mixture, 7, DROPOUT, stream.state)
        seen += islice(stream, size)
    assert seen == list(islice(RowStream(mixture, 7, DROPOUT), len(seen)))


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 14 numbers, got shape \(3,\)"):
        StreamState.from_array(np.zeros(3, np.uint64))


def test_the_order_is_a_function_of_datasets_and_seed(root: Path, builder: SequenceBuilder, mixture: Mixture) -> None:
    again = mixed(root, builder)
    np.random.seed(1)
    assert first_rows(mixture, 5) == first_rows(again, 5)
    orders = {str(identities(first_rows(mixture, seed))) for seed in range(6)}
    assert len(orders) == 6
    assert len({str(epoch_order(mixture, seed, 0)) for seed in range(6)}) == 6


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, builder: SequenceBuilder) -> Mixture:
    root = tmp_path_factory.mktemp("many") / "codes"
    write_pictures(root, [f"k{index}" for index in range(MANY)])
    return Mixture(
        [MixtureEntry(str(root)), MixtureEntry(str(root), "understand"), MixtureEntry(str(root), "text")], builder, 200
    )


def dropped_keys(mixture: Mixture, seed: int, epoch: int, share: float, source: int = 0) -> set[str]:
    keys = mixture.sample_sets[source].keys
    return {key for i, key in enumerate(keys) if drops_caption(mixture, seed, epoch, source, i, share)}


def test_the_share_of_dropped_captions_is_as_given(many: Mixture) -> None:
    for seed, epoch in ((0, 0), (0, 1), (3, 2)):
        assert 0.038 < len(dropped_keys(many, seed, epoch, 0.05)) / MANY < 0.062
        assert 0.46 < len(dropped_keys(many, seed, epoch, 0.5)) / MANY < 0.54
    assert not dropped_keys(many, 0, 0, 0.0)
    assert len(dropped_keys(many, 0, 0, 1.0)) == MANY


def test_other_captions_are_dropped_by_other_epochs_and_seeds(many: Mixture) -> None:
    first = dropped_keys(many, 0, 0, 0.05)
    for other in (dropped_keys(many, 0, 1, 0.05), dropped_keys(many, 1, 0, 0.05)):
        assert len(first & other) < 0.2 * len(first)


def test_only_captions_of_images_are_dropped(many: Mixture) -> None:
    assert not dropped_keys(many, 0, 0, 1.0, source=1)
    assert not dropped_keys(many, 0, 0, 1.0, source=2)


def test_whether_a_caption_is_dropped_depends_on_its_key_only(tmp_path: Path, builder: SequenceBuilder) -> None:
    keys = [f"k{index}" for index in range(60)]
    write_pictures(tmp_path / "forth", keys)
    write_pictures(tmp_path / "back", keys[:3:-1])
    forth, back = (Mixture([MixtureEntry(str(tmp_path / name))], builder, ROW) for name in ("forth", "back"))
    dropped = dropped_keys(forth, 0, 0, DROPOUT)
    assert dropped_keys(back, 0, 0, DROPOUT) == dropped - set(keys[:4])
    both = Mixture([MixtureEntry(str(tmp_path / "back")), MixtureEntry(str(tmp_path / "forth"))], builder, ROW)
    assert dropped_keys(both, 0, 0, DROPOUT, source=1) == dropped


def test_rows_carry_whether_a_caption_drops_caption(mixture: Mixture) -> None:
    for epoch, rows in enumerate(epochs(mixture, 2)):
        for sample in (sample for row in rows for sample in row):
            expected = drops_caption(mixture, 0, epoch, sample.sample_set, sample.index, DROPOUT)
            assert sample.drop_caption == expected
        assert {sample.drop_caption for row in rows for sample in row} == {True, False}
