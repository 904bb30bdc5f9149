"""Kernels that only Ascend has. They have not run yet.

Shape suffixes: B batch, N query heads, G key/value heads, L queries, S keys, D head size.
"""

from __future__ import annotations

from mindspore import Tensor, ops


def fused_attention(
    q_BNLD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, is_masked_B1LS: Tensor, heads: int, scale: float
) -> Tensor:
    """softmax(q·kᵀ·scale)·v over the keys that are not masked, (B, N, L, D), in half precision."""
    return ops.flash_attention_score(
        q_BNLD, k_BGSD, v_BGSD, heads, attn_mask=is_masked_B1LS, scalar_value=scale, input_layout="BNSD"
    )
