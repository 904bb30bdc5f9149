"""Blockwise attention against a plain implementation, values and gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.model.kernels import Heads
from lm_stage.model.kernels.cpu_attention import PackedAttention, merge_heads, query_blocks
from shared.device import setup_device

N, G, D = 4, 2, 8
TOLERANCE = 2e-5  # measured: 3e-6


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_blocks_cover_every_query_once_with_all_keys_it_can_see(length: int, max_segment_length: int) -> None:
    blocks = query_blocks(length, max_segment_length)
    assert [query for start, end, _ in blocks for query in range(start, end)] == list(range(length))
    starts = [start for start, _, _ in blocks]
    for start, _, first_key in blocks:
        assert first_key <= max(0, start - max_segment_length + 1)
        assert first_key in starts


def plain(q: ms.Tensor, k: ms.Tensor, v: ms.Tensor, visible_BLL: np.ndarray) -> ms.Tensor:
    """Compute attention over the visible keys with the framework's own operators and gradients."""
    k, v = (ms.ops.repeat_interleave(one, N // G, axis=1) for one in (k, v))
    scores = ms.ops.BatchMatMul(transpose_b=True)(q, k) / D**0.5
    mask = ms.Tensor(np.where(visible_BLL[:, None], 0, -1e9).astype(np.float32))
    return ms.ops.BatchMatMul()(ms.ops.softmax(scores + mask, -1), v)


@pytest.mark.parametrize(
    ("lengths", "row"),
    [([[40, 24]], 64), ([[100, 100, 84], [284]], 284), ([[130, 70, 130, 54], [9, 120, 130, 130]], 400)],
    ids=["one block", "three blocks", "blocks that see the previous one"],
)
def test_blockwise_attention_equals_plain_attention(lengths: list[list[int]], row: int) -> None:
    setup_device("cpu")
    random = np.random.default_rng(0)
    segments = np.stack([np.repeat(np.arange(len(one) + 1), [*one, row - sum(one)]) for one in lengths])
    visible = (segments[:, :, None] == segments[:, None, :]) & np.tri(row, dtype=bool)
    q, k, v, weights = (
        ms.Tensor(random.normal(size=(len(lengths), heads, row, D)).astype(np.float32)) for heads in (N, G, G, N)
    )
    packed = PackedAttention(Heads(N, G, D), row, max(map(max, lengths)), ms.float32)

    def by_blocks(q: ms.Tensor, k: ms.Tensor, v: ms.Tensor) -> ms.Tensor:
        outputs_BLC = packed(q, k, v, packed.mask(ms.Tensor(segments, ms.int32)))
        return (outputs_BLC * merge_heads(weights)).sum()

    def plainly(q: ms.Tensor, k: ms.Tensor, v: ms.Tensor) -> ms.Tensor:
        return (plain(q, k, v, visible) * weights).sum()

    ours, gradients = ms.jit(ms.value_and_grad(by_blocks, (0, 1, 2)), jit_level="O0")(q, k, v)
    expected, expected_gradients = ms.value_and_grad(plainly, (0, 1, 2))(q, k, v)
    assert float(ours) == pytest.approx(float(expected), rel=TOLERANCE, abs=1e-3)
    for found, wanted in zip(gradients, expected_gradients):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), atol=TOLERANCE)
