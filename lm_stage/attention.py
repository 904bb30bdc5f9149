"""Attention over a whole buffer of keys with a mask: the one operator that differs by device.

On Ascend the fused kernel (`ops.flash_attention_score`, half precision); on CPU plain matrix products that never
repeat the keys of a group. The Ascend branch has not run yet.

Shape suffixes: B batch, N query heads, G key/value heads, L queries, S keys, D head size.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

HIDDEN_SCORE = -1e30  # added to the scores of hidden keys; finite, so that a row without keys stays finite


class Attention(nn.Cell):
    """Softmax attention with grouped keys and values."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int, is_fused: bool):
        super().__init__()
        self.N, self.G, self.D = heads, kv_heads, head_dim
        self.is_fused = is_fused
        self.scale = head_dim**-0.5
        self.plain = PlainAttention(head_dim)

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
            return ops.flash_attention_score(
                q_BNLD, k_BGSD, v_BGSD, self.N, attn_mask=mask, scalar_value=self.scale, input_layout="BNSD"
            )
        B, _, L, _ = q_BNLD.shape
        q = q_BNLD.reshape(B, self.G, self.N // self.G * L, self.D) * self.scale
        return self.plain(q, k_BGSD, v_BGSD, mask)[0].reshape(B, self.N, L, self.D)


class PlainAttention(nn.Cell):
    """softmax(q·kᵀ + mask)·v with its gradient written out: the framework's own takes twice the time on CPU.

    Shape suffixes: M query heads of a group times queries.
    """

    def __init__(self, head_dim: int):
        super().__init__()
        self.ones_D1 = Tensor(np.ones((head_dim, 1), np.float32))
        self.product, self.product_bt = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
        self.product_at = ops.BatchMatMul(transpose_a=True)
        self.matmul, self.tile, self.zeros_like = ops.MatMul(), ops.Tile(), ops.ZerosLike()
        self.softmax = ops.Softmax(-1)

    def construct(self, q_BGMD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attended values (B, G, M, D), and the attention weights, which only the gradient uses."""
        weights = self.softmax(self.product_bt(q_BGMD, k_BGSD) + mask)
        return self.product(weights, v_BGSD), weights

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, ...]:
        """Of a softmax p with gradient dp: p·(dp − Σ p·dp), and Σ p·dp = Σ out·dout, a sum over D instead of S."""
        attended, weights = out
        gradient = dout[0]
        B, G, M, S = weights.shape
        along = (attended * gradient).reshape(B * G * M, -1)
        sums = self.matmul(along, self.tile(self.ones_D1.astype(along.dtype), (1, S))).reshape(B, G, M, S)
        dscores = weights * (self.product_bt(gradient, v) - sums)
        dq, dk = self.product(dscores, k), self.product_at(dscores, q)
        return dq, dk, self.product_at(weights, gradient), self.zeros_like(mask)
