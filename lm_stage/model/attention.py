"""Softmax attention with grouped keys and values: the one operator that differs by device.

`Attention` is over a buffer of keys, as cached decoding needs it; `PackedAttention` over whole rows of packed samples,
as training needs it. On Ascend both take the fused kernel (`ops.flash_attention_score`, half precision), on CPU plain
matrix products that never repeat the keys of a group. The Ascend branches have not run yet.

Shape suffixes: B batch, N query heads, G key/value heads, L queries, S keys, D head size, M heads of a group · queries.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

HIDDEN_SCORE = -1e30  # added to the scores of hidden keys; finite, so that a row without keys stays finite
SMALLEST_BLOCK, MOST_BLOCKS = 128, 8  # of queries; smaller blocks are slower, more make graphs large


class Attention(nn.Cell):
    """Attention of some queries to all of a buffer of keys, under a mask."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int, is_fused: bool):
        super().__init__()
        self.N, self.G, self.D = heads, kv_heads, head_dim
        self.is_fused = is_fused
        self.scale = head_dim**-0.5
        self.product, self.product_bt = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
        self.softmax = ops.Softmax(-1)

    def mask(self, is_hidden_B1LS: Tensor) -> Tensor:
        """What `construct` takes as its mask, made once for all layers: True where a key must not be seen.

        In the plain form one line a query head, because on CPU a sum that repeats lines takes a multiple of the time.
        """
        if self.is_fused:
            return is_hidden_B1LS
        B, _, L, S = is_hidden_B1LS.shape
        added = ops.tile(is_hidden_B1LS.astype(ms.float32) * HIDDEN_SCORE, (1, self.N, 1, 1))
        return added.reshape(B, self.G, self.N // self.G * L, S)

    def construct(self, q_BNLD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor) -> Tensor:
        """Attended values (B, N, L, D); `mask` is what the method of that name made."""
        if self.is_fused:
            return self.fused(q_BNLD, k_BGSD, v_BGSD, mask)
        B, _, L, _ = q_BNLD.shape
        q_BGMD = q_BNLD.reshape(B, self.G, self.N // self.G * L, self.D) * self.scale
        weights = self.softmax(self.product_bt(q_BGMD, k_BGSD) + mask)  # in float32
        return self.product(weights.astype(v_BGSD.dtype), v_BGSD).reshape(B, self.N, L, self.D)

    def fused(self, q_BNLD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, is_hidden_B1LS: Tensor) -> Tensor:
        return ops.flash_attention_score(
            q_BNLD, k_BGSD, v_BGSD, self.N, attn_mask=is_hidden_B1LS, scalar_value=self.scale, input_layout="BNSD"
        )


def query_blocks(length: int, reach: int) -> tuple[tuple[int, int, int], ...]:
    """Blocks of the queries of a row: first query, end, and the first key that any of them can see.

    No query sees further back than `reach` keys, itself among them. First keys are where blocks begin.
    """
    size = max(SMALLEST_BLOCK, -(-length // MOST_BLOCKS))
    return tuple(
        (begin, min(begin + size, length), max(0, begin - reach + 1) // size * size) for begin in range(0, length, size)
    )


class PackedAttention(nn.Cell):
    """Causal attention within rows of `length` tokens that hold samples, each blind to the others.

    Queries are taken in blocks, each against the keys that one of them could see: none behind the block, none further
    back than the longest sample (`reach` tokens): a long row of short samples costs a fraction of its square.
    """

    def __init__(self, attention: Attention, length: int, reach: int):
        super().__init__()
        self.attention = attention
        self.blocks = query_blocks(length, reach)
        self.plain = PlainPackedAttention(self.blocks, attention.N, attention.G, attention.D)
        self.is_later = tuple(
            Tensor(np.arange(first, end).reshape(1, 1, 1, -1) > np.arange(begin, end).reshape(1, 1, -1, 1))
            for begin, end, first in self.blocks
        )
        self.concat = ops.Concat(2)

    def mask(self, segments_BL: Tensor) -> tuple[Tensor, ...]:
        """What `construct` takes as its mask, made once for all layers, one a block; segments number the samples."""
        masks: tuple[Tensor, ...] = ()
        for index, (begin, end, first) in enumerate(self.blocks):
            B, L, S = segments_BL.shape[0], end - begin, end - first
            queries, keys = segments_BL[:, begin:end].reshape(B, 1, L, 1), segments_BL[:, first:end].reshape(B, 1, 1, S)
            masks += (self.attention.mask(ops.logical_or(queries != keys, self.is_later[index])),)
        return masks

    def construct(self, q_BNLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
        """Attended values (B, N, L, D)."""
        if not self.attention.is_fused:
            return self.plain(q_BNLD, k_BGLD, v_BGLD, masks)[0]
        attended: tuple[Tensor, ...] = ()
        for index, (begin, end, first) in enumerate(self.blocks):
            keys, values = k_BGLD[:, :, first:end], v_BGLD[:, :, first:end]
            attended += (self.attention.fused(q_BNLD[:, :, begin:end], keys, values, masks[index]),)
        return self.concat(attended)


class PlainPackedAttention(nn.Cell):
    """softmax(q·kᵀ·D^−½ + mask)·v by blocks, its gradient written out: the framework's own takes a multiple on CPU."""

    def __init__(self, blocks: tuple[tuple[int, int, int], ...], heads: int, kv_heads: int, head_dim: int):
        super().__init__()
        self.blocks = blocks
        self.N, self.G, self.D = heads, kv_heads, head_dim
        self.scale = head_dim**-0.5
        self.ones_D1 = Tensor(np.ones((head_dim, 1), np.float32))
        self.product, self.product_bt = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
        self.product_at = ops.BatchMatMul(transpose_a=True)
        self.matmul, self.softmax = ops.MatMul(), ops.Softmax(-1)
        self.concat, self.concat_features = ops.Concat(2), ops.Concat(3)
        self.slice, self.zeros_like, self.ones_like = ops.Slice(), ops.ZerosLike(), ops.OnesLike()

    def construct(
        self, q_BNLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, masks: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Attended values (B, N, L, D); the attention weights of each block and scaled keys, for the gradient only."""
        k_BGLD = k_BGLD * self.scale
        attended: tuple[Tensor, ...] = ()
        weights: tuple[Tensor, ...] = ()
        for index, (begin, end, first) in enumerate(self.blocks):
            scores = self.product_bt(self.grouped(q_BNLD, begin, end), self.cut(k_BGLD, first, end))
            weights += (self.softmax(scores + masks[index]).astype(v_BGLD.dtype),)
            attended += (self.apart(self.product(weights[-1], self.cut(v_BGLD, first, end)), begin, end),)
        return self.concat(attended), weights, k_BGLD

    def bprop(
        self, q: Tensor, k: Tensor, v: Tensor, masks: tuple[Tensor, ...], out: tuple, dout: tuple
    ) -> tuple[Tensor, ...]:
        """Of a softmax p with gradient dp: p·(dp − Σ p·dp), and Σ p·dp = Σ out·dout, a sum over D instead of S.

        That sum is subtracted within the product that makes dp, as one more feature beside a one.
        """
        attended, weights, scaled_k = out
        gradient = dout[0]
        B, N, L, D = q.shape
        sums = self.matmul((attended * gradient).reshape(B * N * L, D), self.ones_D1.astype(q.dtype))
        gradient_and_sums = self.concat_features((gradient, -sums.reshape(B, N, L, 1)))
        v_and_ones = self.concat_features((v, self.ones_like(self.slice(v, (0, 0, 0, 0), (B, self.G, L, 1)))))
        dq: tuple[Tensor, ...] = ()
        dk: tuple[Tensor, ...] = ()
        dv: tuple[Tensor, ...] = ()
        dmasks: tuple[Tensor, ...] = ()
        for index in range(len(self.blocks)):  # `zip` and `enumerate` do not compile in a gradient
            (begin, end, first), p = self.blocks[index], weights[index]
            dp = self.product_bt(self.grouped(gradient_and_sums, begin, end), self.cut(v_and_ones, first, end))
            dscores = p * dp
            dq += (self.apart(self.product(dscores, self.cut(scaled_k, first, end)), begin, end),)
            dk += (self.product_at(dscores, self.grouped(q, begin, end)),)
            dv += (self.product_at(p, self.grouped(gradient, begin, end)),)
            dmasks += (self.zeros_like(masks[index]),)
        return self.concat(dq), self.sum_of_blocks(dk) * self.scale, self.sum_of_blocks(dv), dmasks

    def sum_of_blocks(self, parts: tuple[Tensor, ...]) -> Tensor:
        """(B, G, L, D) from what each block gave to the keys it saw."""
        sums: tuple[Tensor, ...] = ()
        for index in range(len(self.blocks)):
            begin, end, first = self.blocks[index]
            total = self.cut(parts[index], begin - first, end - first)
            for later in range(index + 1, len(self.blocks)):
                first = self.blocks[later][2]
                if first <= begin:
                    total = total + self.cut(parts[later], begin - first, end - first)
            sums += (total,)
        return self.concat(sums)

    def grouped(self, x_BNLF: Tensor, begin: int, end: int) -> Tensor:
        """Some queries, the heads of a group one behind the other: (B, G, M, F)."""
        B, _, _, F = x_BNLF.shape
        return self.cut(x_BNLF, begin, end).reshape(B, self.G, self.N // self.G * (end - begin), F)

    def apart(self, x_BGMD: Tensor, begin: int, end: int) -> Tensor:
        """The heads apart again: (B, N, end − begin, D)."""
        return x_BGMD.reshape(x_BGMD.shape[0], self.N, end - begin, self.D)

    def cut(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Part of the third axis. An index that takes all of it would copy, forty times as slowly as `Slice`."""
        A, B, L, F = x.shape
        return x if end - begin == L else self.slice(x, (0, 0, begin, 0), (A, B, end - begin, F))
