"""Attention by blocks against attention written down plainly, values and gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.model.attention import Attention, PackedAttention, query_blocks
from shared.device import setup_device

N, G, D = 4, 2, 8
TOLERANCE = 2e-5  # measured: 3e-6


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_blocks_take_every_query_once_with_all_keys_it_may_see(length: int, reach: int) -> None:
    blocks = query_blocks(length, reach)
    assert [query for begin, end, _ in blocks for query in range(begin, end)] == list(range(length))
    begins = [begin for begin, _, _ in blocks]
    for begin, _, first in blocks:
        assert first <= max(0, begin - reach + 1)
        assert first in begins


def plain(q: ms.Tensor, k: ms.Tensor, v: ms.Tensor, seen_BLL: np.ndarray) -> ms.Tensor:
    """Softmax over the scores of the keys that are seen, by the framework's own operators and gradients."""
    k, v = (ms.ops.repeat_interleave(one, N // G, axis=1) for one in (k, v))
    scores = ms.ops.BatchMatMul(transpose_b=True)(q, k) / D**0.5
    hidden = ms.Tensor(np.where(seen_BLL[:, None], 0, -1e9).astype(np.float32))
    return ms.ops.BatchMatMul()(ms.ops.softmax(scores + hidden, -1), v)


@pytest.mark.parametrize(
    ("lengths", "row"),
    [([[40, 24]], 64), ([[100, 100, 84], [284]], 284), ([[130, 70, 130, 54], [9, 120, 130, 130]], 400)],
    ids=["one block", "three blocks", "blocks that reach back one"],
)
def test_blocks_give_what_plain_attention_gives(lengths: list[list[int]], row: int) -> None:
    setup_device("cpu")
    random = np.random.default_rng(0)
    segments = np.stack([np.repeat(np.arange(len(one) + 1), [*one, row - sum(one)]) for one in lengths])
    seen = (segments[:, :, None] == segments[:, None, :]) & np.tri(row, dtype=bool)
    q, k, v, weights = (
        ms.Tensor(random.normal(size=(len(lengths), heads, row, D)).astype(np.float32)) for heads in (N, G, G, N)
    )
    packed = PackedAttention(Attention(N, G, D, is_fused=False), row, max(map(max, lengths)))

    def by_blocks(q: ms.Tensor, k: ms.Tensor, v: ms.Tensor) -> ms.Tensor:
        return (packed(q, k, v, packed.mask(ms.Tensor(segments, ms.int32))) * weights).sum()

    def plainly(q: ms.Tensor, k: ms.Tensor, v: ms.Tensor) -> ms.Tensor:
        return (plain(q, k, v, seen) * weights).sum()

    ours, gradients = ms.jit(ms.value_and_grad(by_blocks, (0, 1, 2)), jit_level="O0")(q, k, v)
    expected, expected_gradients = ms.value_and_grad(plainly, (0, 1, 2))(q, k, v)
    assert float(ours) == pytest.approx(float(expected), rel=TOLERANCE, abs=1e-3)
    for found, wanted in zip(gradients, expected_gradients):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), atol=TOLERANCE)
