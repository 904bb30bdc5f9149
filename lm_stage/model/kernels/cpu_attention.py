"""Attention over packed samples on a CPU, block by block, with its gradient.

Shape suffixes: B batch, N query heads, G key/value heads, L queries, S keys, D head size, F features,
M heads of a group · queries.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops


class BlockwiseAttention(nn.Cell):
    """softmax(q·kᵀ·D^−½ + mask)·v by blocks of queries: (first query, end, first key of the block).

    The gradient of the framework takes several times as long on a CPU.
    """

    def __init__(self, blocks: tuple[tuple[int, int, int], ...], heads: int, kv_heads: int, head_dim: int):
        super().__init__()
        self.blocks = blocks
        self.N, self.G, self.D = heads, kv_heads, head_dim
        self.scale = head_dim**-0.5
        self.ones_D1 = Tensor(np.ones((head_dim, 1), np.float32))
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
