"""Cached decoding against the forward over the whole sequence."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from lm_stage.model.backend import CachedModel, NativeBackend
from lm_stage.model.decoder import Decoder
from lm_stage.model.growing_cache import GrowingCachedDecoder
from lm_stage.model.kernels import cpu
from tests.support.golden_language import GoldenLanguageModel

TOLERANCE = 1e-3  # of logits; measured 2.4e-5


def cached(golden: GoldenLanguageModel, rows: int, length: int) -> CachedModel:
    layout = golden.model.layout
    return golden.model.backend.cached(rows, length, layout.first_visual_token, layout.end_of_visual)


def new_cache(golden: GoldenLanguageModel, rows: int, length: int) -> CachedModel:
    layout = golden.model.layout
    return golden.model.backend.new.cached(rows, length, layout.first_visual_token, layout.end_of_visual)


def visual_logits(golden: GoldenLanguageModel, ids: np.ndarray) -> np.ndarray:
    layout = golden.model.layout
    return golden.model.logits(ids)[:, layout.first_visual_token : layout.end_of_visual]


def test_decode_steps_equal_the_forward_over_the_whole_sequence(golden: GoldenLanguageModel) -> None:
    ids = np.random.default_rng(0).integers(0, golden.model.config.vocab_size, 90)
    whole, cache = visual_logits(golden, ids), cached(golden, 2, 100)
    cache.prefill(1, list(ids[:70]))
    for position in range(70, 90):
        step = cache.decode_step(np.array([[0], [ids[position]]]), np.array([[0], [position]]))
        np.testing.assert_allclose(step[1, 0], whole[position], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", [7, 64])
def test_windows_equal_the_forward_over_the_whole_sequence(golden: GoldenLanguageModel, window: int) -> None:
    """Each row has its own position. Wrong tokens after it are overwritten; the last windows go beyond the cache."""
    random = np.random.default_rng(0)
    ids = random.integers(0, golden.model.config.vocab_size, 90)
    whole, cache = visual_logits(golden, ids), cached(golden, 2, 90)
    starts = np.array([[70], [66]])
    for row, start in enumerate(starts[:, 0]):
        cache.prefill(row, list(ids[:start]))
    for begin in range(0, 20, 2):
        positions = starts + begin + np.arange(window)
        tokens = np.where(np.arange(window) < 2, ids[np.minimum(positions, 89)], random.integers(0, 300, (2, window)))
        step = cache.decode_step(tokens, positions)
        for row, start in enumerate(starts[:, 0] + begin):
            np.testing.assert_allclose(step[row, :2], whole[start : start + 2], atol=TOLERANCE, rtol=0)


def test_a_long_prefill_runs_in_chunks(golden: GoldenLanguageModel) -> None:
    ids = np.random.default_rng(1).integers(0, golden.model.config.vocab_size, 700)
    cache = cached(golden, 1, 701)
    cache.prefill(0, list(ids[:-1]))
    step = cache.decode_step(ids[None, -1:], np.array([[699]]))
    np.testing.assert_allclose(step[0, 0], visual_logits(golden, ids)[-1], atol=TOLERANCE, rtol=0)


def test_a_prefill_discards_the_previous_sequence_of_a_row(golden: GoldenLanguageModel) -> None:
    random = np.random.default_rng(2)
    cache = cached(golden, 1, 100)
    cache.prefill(0, random.integers(0, 300, 99).tolist())
    ids = random.integers(0, 300, 12)
    cache.prefill(0, ids[:-1].tolist())
    step = cache.decode_step(ids[None, -1:], np.array([[11]]))
    np.testing.assert_allclose(step[0, 0], visual_logits(golden, ids)[-1], atol=TOLERANCE, rtol=0)


def one_layer(golden: GoldenLanguageModel) -> NativeBackend:
    """Return the golden decoder without its other layers, because many graphs are compiled."""
    weights = dict(golden.model.backend.decoder.parameters_and_names())  # by path: other tests may have renamed them
    decoder = Decoder(replace(golden.model.config, num_hidden_layers=1), ms.float32, cpu)
    for name, p in decoder.parameters_and_names():
        p.set_data(ms.Tensor(weights[name].asnumpy()))
    return NativeBackend(decoder)


def test_a_growing_cache_gives_the_bits_of_one_of_its_whole_length(golden: GoldenLanguageModel) -> None:
    """One row grows out of two lengths, by steps and by windows; when it ends, the cache shrinks to the other row."""
    layout = golden.model.layout
    growing = one_layer(golden).cached(2, 1023, layout.first_visual_token, layout.end_of_visual)
    assert isinstance(growing, GrowingCachedDecoder)
    whole = growing.current.resized(1024)
    ids = np.random.default_rng(3).integers(0, golden.model.config.vocab_size, (2, 600))
    for model in (growing, whole):
        model.prefill(0, ids[0, :240].tolist())
        model.prefill(1, ids[1, :20].tolist())
    begins, lengths = np.array([240, 20]), []
    for step, window in enumerate([1] * 20 + [16] * 17 + [1] * 3):
        if step == 37:
            begins[0] = 0
        positions = begins[:, None] + np.arange(window)
        tokens = np.take_along_axis(ids, positions, axis=1)
        np.testing.assert_array_equal(growing.decode_step(tokens, positions), whole.decode_step(tokens, positions))
        lengths.append(growing.current.length)
        begins += window
    assert [length for length, _ in groupby(lengths)] == [256, 512, 1024, 512]


def test_a_sequence_longer_than_the_cache_is_refused(golden: GoldenLanguageModel) -> None:
    with pytest.raises(ValueError, match="row 0: 200 tokens do not fit"):
        cached(golden, 1, 100).prefill(0, [0] * 200)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_memory_of_a_dropped_cache_is_freed(golden: GoldenLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker that generates images of one size after those of another."""
    monkeypatch.setattr(cpu, "cache_lengths", lambda rows, heads, length, dtype: (length,))
    config = replace(golden.model.config, num_hidden_layers=1)
    backend = NativeBackend(Decoder(config, ms.float32, cpu))
    rows, length = 48, 4096
    size_bytes = 2 * 4 * rows * config.num_key_value_heads * length * config.head_dim
    used = []
    for index in range(4):
        backend.cached(rows, length - 64 * index, 0, 64).decode_step(np.zeros((rows, 1)), np.zeros((rows, 1)))
        used.append(resident_bytes())
    assert size_bytes > 1 << 26
    assert used[3] - used[1] < size_bytes  # twice as much if dropped caches stayed


def test_a_cache_is_not_created_on_the_host(golden: GoldenLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: ms.Tensor) -> np.ndarray:
        raise AssertionError(f"{tensor.shape} was copied to the host")

    monkeypatch.setattr(ms.Tensor, "asnumpy", refuse)
    model = new_cache(golden, 1, 100)
    cells = [cell for _, cell in model.cells_and_names() if type(cell).__name__ == "LayerCache"]
    assert len(cells) == golden.model.config.num_hidden_layers
    assert not any(parameter.has_init for cell in cells for parameter in cell.get_parameters())


def test_the_head_is_a_copy_and_not_a_view(golden: GoldenLanguageModel) -> None:
    layout, decoder = golden.model.layout, golden.model.backend.decoder
    head, before = new_cache(golden, 1, 100).head, decoder.head_weight.asnumpy().copy()
    decoder.head_weight.set_data(ms.Tensor(np.zeros_like(before)))
    np.testing.assert_array_equal(head.asnumpy(), before[layout.first_visual_token : layout.end_of_visual])
    decoder.head_weight.set_data(ms.Tensor(before))
    assert head.is_contiguous()
