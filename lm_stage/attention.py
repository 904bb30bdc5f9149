"""Attention over a whole buffer of keys with a mask: the one operator that differs by device.

On Ascend the fused kernel (`ops.flash_attention_score`, half precision); on CPU plain matrix products that never
repeat the keys of a group. The Ascend branch has not run yet.

Shape suffixes: B batch, N query heads, G key/value heads, L queries, S keys, D head size.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

HIDDEN_SCORE = -1e30  # added to the scores of hidden keys; finite, so that a row without keys stays finite


class Attention(nn.Cell):
    """Softmax attention with grouped keys and values."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int, is_fused: bool):
        super().__init__()
        self.N, self.G, self.D = heads, kv_heads, head_dim
        self.is_fused = is_fused
        self.scale = head_dim**-0.5
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weighted = ops.BatchMatMul()
        self.softmax = ops.Softmax(-1)

    def mask(self, is_hidden_B1LS: Tensor) -> Tensor:
        """What `construct` takes as its mask, made once for all layers: True where a key must not be seen.

        In the plain form one line a query head, because on CPU a sum that repeats lines takes a multiple of the time.
        """
        if self.is_fused:
            return is_hidden_B1LS
        B, _, L, S = is_hidden_B1LS.shape
        added = ops.broadcast_to(is_hidden_B1LS.astype(ms.float32) * HIDDEN_SCORE, (B, self.N, L, S))
        return added.reshape(B, self.G, self.N // self.G * L, S)

    def construct(self, q_BNLD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor) -> Tensor:
        """Attended values (B, N, L, D); `mask` is what the method of that name made."""
        if self.is_fused:
            return ops.flash_attention_score(
                q_BNLD, k_BGSD, v_BGSD, self.N, attn_mask=mask, scalar_value=self.scale, input_layout="BNSD"
            )
        B, _, L, _ = q_BNLD.shape
        q = q_BNLD.reshape(B, self.G, self.N // self.G * L, self.D) * self.scale
        scores = self.scores(q, k_BGSD) + mask
        return self.weighted(self.softmax(scores), v_BGSD).reshape(B, self.N, L, self.D)
