"""Attention on a CPU: over all keys under a mask, and over packed samples block by block with its own gradient.

Shape suffixes: as in the package; F features, M heads of a group · queries.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from lm_stage.model.kernels import Heads, PackedInputs

MASK_VALUE = -1e30  # added to the scores of masked keys; finite, so that a query without keys stays finite
MIN_BLOCK_SIZE, MAX_BLOCKS = 128, 8  # of queries; smaller blocks are slower, more blocks make graphs large


class Attention(nn.Cell):
    """Attention of queries to the keys up to their positions: softmax(q·kᵀ·D^−½ + mask)·v."""

    def __init__(self, heads: Heads, dtype: ms.Type):
        super().__init__()
        self.heads = heads.N, heads.G
        self.scale = heads.D**-0.5
        self.matmul, self.matmul_bt = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
        self.softmax = ops.Softmax(-1)

    def mask(self, positions_BL: Tensor, key_positions_S: Tensor) -> Tensor:
        """Return what is added to the scores of all layers."""
        B, L = positions_BL.shape
        return additive_mask(key_positions_S.reshape(1, 1, 1, -1) > positions_BL.reshape(B, 1, L, 1), *self.heads)

    def construct(self, q_BNLD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask_BGMS: Tensor) -> Tensor:
        """Return the outputs (B, L, N·D). The softmax is computed in float32, and keys are not repeated."""
        B, N, L, D = q_BNLD.shape
        G = k_BGSD.shape[1]
        q_BGMD = q_BNLD.reshape(B, G, N // G * L, D) * self.scale
        weights = self.softmax(self.matmul_bt(q_BGMD, k_BGSD) + mask_BGMS)
        return merge_heads(self.matmul(weights.astype(v_BGSD.dtype), v_BGSD).reshape(B, N, L, D))


class StepAttention(Attention):
    """Attention of one query for each row of a cache."""

    def mask(self, lengths_R: Tensor, key_positions_S: Tensor) -> Tensor:
        """Return what is added to the scores of all layers; a row has `lengths_R` keys, int64."""
        lengths_R111 = lengths_R.astype(ms.int32).reshape(-1, 1, 1, 1)  # key positions are int32, and there are more
        is_masked = key_positions_S.reshape(1, 1, 1, -1) >= lengths_R111
        return additive_mask(is_masked, *self.heads)


def additive_mask(is_masked_B1LS: Tensor, N: int, G: int) -> Tensor:
    """Return a mask (B, G, M, S) for every query head, because broadcasting is slow on a CPU."""
    B, _, L, S = is_masked_B1LS.shape
    added = ops.tile(is_masked_B1LS.astype(ms.float32) * MASK_VALUE, (1, N, 1, 1))
    return added.reshape(B, G, N // G * L, S)


def merge_heads(x_BNLD: Tensor) -> Tensor:
    """Reshape (B, N, L, D) to (B, L, N·D)."""
    B, N, L, D = x_BNLD.shape
    return x_BNLD.swapaxes(1, 2).reshape(B, L, N * D)


def query_blocks(length: int, max_segment_length: int) -> tuple[tuple[int, int, int], ...]:
    """Split the queries of a row into blocks: (first query, end, first key that a query of the block can see).

    No query sees further back than its segment is long. First keys are block boundaries.
    """
    size = max(MIN_BLOCK_SIZE, -(-length // MAX_BLOCKS))
    return tuple(
        (start, min(start + size, length), max(0, start - max_segment_length + 1) // size * size)
        for start in range(0, length, size)
    )


class PackedAttention(nn.Cell):
    """Causal attention within rows of `length` tokens that hold samples, each of which sees only itself.

    Queries are processed in blocks, each against the keys that one of them could see: none after the block, and none
    further back than the longest sample. A long row of short samples costs a fraction of its square.
    """

    def __init__(self, heads: Heads, length: int, max_segment_length: int, dtype: ms.Type):
        super().__init__()
        self.blocks = query_blocks(length, max_segment_length)
        self.heads = heads.N, heads.G
        self.blockwise = BlockwiseAttention(self.blocks, heads)
        self.is_future = tuple(
            Tensor(np.arange(first_key, end).reshape(1, 1, 1, -1) > np.arange(start, end).reshape(1, 1, -1, 1))
            for start, end, first_key in self.blocks
        )

    def inputs(self, token_ids_BL: np.ndarray, positions_BL: np.ndarray, segments_BL: np.ndarray) -> PackedInputs:
        """Return the inputs of the model unchanged; `mask` takes the last of them."""
        return token_ids_BL, positions_BL, segments_BL

    def mask(self, segments_BL: Tensor) -> tuple[Tensor, ...]:
        """Return the masks that `construct` takes, one a block; `segments_BL` numbers the samples of each row."""
        masks: tuple[Tensor, ...] = ()
        for index, (start, end, first_key) in enumerate(self.blocks):
            B, L, S = segments_BL.shape[0], end - start, end - first_key
            queries = segments_BL[:, start:end].reshape(B, 1, L, 1)
            keys = segments_BL[:, first_key:end].reshape(B, 1, 1, S)
            masks += (additive_mask(ops.logical_or(queries != keys, self.is_future[index]), *self.heads),)
        return masks

    def construct(self, q_BNLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs (B, L, N·D)."""
        return merge_heads(self.blockwise(q_BNLD, k_BGLD, v_BGLD, masks)[0])


class BlockwiseAttention(nn.Cell):
    """softmax(q·kᵀ·D^−½ + mask)·v by blocks of queries: (first query, end, first key of the block).

    The gradient of the framework takes several times as long on a CPU.
    """

    def __init__(self, blocks: tuple[tuple[int, int, int], ...], heads: Heads):
        super().__init__()
        self.blocks = blocks
        self.N, self.G, self.D = heads.N, heads.G, heads.D
        self.scale = heads.D**-0.5
        self.ones_D1 = Tensor(np.ones((heads.D, 1), np.float32))
        self.matmul, self.matmul_bt = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
        self.matmul_at = ops.BatchMatMul(transpose_a=True)
        self.matmul_2d, self.softmax = ops.MatMul(), ops.Softmax(-1)
        self.concat, self.concat_features = ops.Concat(2), ops.Concat(3)
        self.slice, self.zeros_like, self.ones_like = ops.Slice(), ops.ZerosLike(), ops.OnesLike()

    def construct(
        self, q_BNLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, masks: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return the outputs (B, N, L, D); for the gradient, the attention weights by block and the scaled keys."""
        k_BGLD = k_BGLD * self.scale
        outputs: tuple[Tensor, ...] = ()
        weights: tuple[Tensor, ...] = ()
        for index, (start, end, first_key) in enumerate(self.blocks):
            scores = self.matmul_bt(self.group_heads(q_BNLD, start, end), self.slice_length(k_BGLD, first_key, end))
            weights += (self.softmax(scores + masks[index]).astype(v_BGLD.dtype),)
            output_BGMD = self.matmul(weights[-1], self.slice_length(v_BGLD, first_key, end))
            outputs += (self.ungroup_heads(output_BGMD, start, end),)
        return self.concat(outputs), weights, k_BGLD

    def bprop(
        self, q: Tensor, k: Tensor, v: Tensor, masks: tuple[Tensor, ...], out: tuple, dout: tuple
    ) -> tuple[Tensor, ...]:
        """For a softmax p with gradient dp: p·(dp − Σ p·dp), where Σ p·dp = Σ out·dout, a sum over D instead of S.

        That sum is subtracted within the product that computes dp, as one more feature against a one.
        """
        outputs, weights, scaled_k = out
        gradient = dout[0]
        B, N, L, D = q.shape
        sums = self.matmul_2d((outputs * gradient).reshape(B * N * L, D), self.ones_D1.astype(q.dtype))
        gradient_and_sums = self.concat_features((gradient, -sums.reshape(B, N, L, 1)))
        v_and_ones = self.concat_features((v, self.ones_like(self.slice(v, (0, 0, 0, 0), (B, self.G, L, 1)))))
        dq: tuple[Tensor, ...] = ()
        dk: tuple[Tensor, ...] = ()
        dv: tuple[Tensor, ...] = ()
        dmasks: tuple[Tensor, ...] = ()
        for index in range(len(self.blocks)):  # `zip` and `enumerate` do not compile in a gradient
            (start, end, first_key), p = self.blocks[index], weights[index]
            dp = self.matmul_bt(
                self.group_heads(gradient_and_sums, start, end), self.slice_length(v_and_ones, first_key, end)
            )
            dscores = p * dp
            dq += (self.ungroup_heads(self.matmul(dscores, self.slice_length(scaled_k, first_key, end)), start, end),)
            dk += (self.matmul_at(dscores, self.group_heads(q, start, end)),)
            dv += (self.matmul_at(p, self.group_heads(gradient, start, end)),)
            dmasks += (self.zeros_like(masks[index]),)
        return self.concat(dq), self.sum_blocks(dk) * self.scale, self.sum_blocks(dv), dmasks

    def sum_blocks(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Return the gradient (B, G, L, D) of all keys, from that of the keys of each block."""
        sums: tuple[Tensor, ...] = ()
        for index in range(len(self.blocks)):
            start, end, first_key = self.blocks[index]
            total = self.slice_length(gradients[index], start - first_key, end - first_key)
            for later in range(index + 1, len(self.blocks)):
                first_key = self.blocks[later][2]
                if first_key <= start:
                    total = total + self.slice_length(gradients[later], start - first_key, end - first_key)
            sums += (total,)
        return self.concat(sums)

    def group_heads(self, x_BNLF: Tensor, start: int, end: int) -> Tensor:
        """Return some queries, with the heads of each group concatenated: (B, G, M, F)."""
        B, _, _, F = x_BNLF.shape
        return self.slice_length(x_BNLF, start, end).reshape(B, self.G, self.N // self.G * (end - start), F)

    def ungroup_heads(self, x_BGMD: Tensor, start: int, end: int) -> Tensor:
        """Return the heads separately: (B, N, end − start, D)."""
        return x_BGMD.reshape(x_BGMD.shape[0], self.N, end - start, self.D)

    def slice_length(self, x: Tensor, start: int, end: int) -> Tensor:
        """Slice the third axis. Indexing all of it would copy it, at a fortieth of the speed of `Slice`."""
        A, B, L, F = x.shape
        return x if end - start == L else self.slice(x, (0, 0, start, 0), (A, B, end - start, F))
