"""Ascend's operators as plain functions, which compute on a CPU what the documentation of each operator says.

`substitute(patch)` puts them in the operators' places, so that tests can run the kernels for Ascend on a CPU. They
check the constraints that a graph knows when it is compiled; gradients are those of the functions.

Shape suffixes: B batch, L queries, S keys, N query heads, G key/value heads, D head size, T tokens of all sequences.
Source: docstrings of MindSpore 2.8.0.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from lm_stage.model.kernels import ascend_attention, ascend_cache, ascend_candidates, ascend_loss, ascend_rows

MASK_SIZE, NO_LIMIT = 2048, 2147483647
_softmax, _product, _product_bt = ops.Softmax(-1), ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
_scatter_update, _top_k = ops.ScatterUpdate(), ops.TopK(sorted=True)
_add_elements = ops.TensorScatterElements(axis=1, reduction="add")


def substitute(patch: pytest.MonkeyPatch, *, fuses_float32: bool = True) -> None:
    """Replace the operators; the fused attentions, documented for half precision only, then also take float32."""
    functions = (rms_norm, swiglu, rotary_position_embedding, flash_attention_score, incre_flash_attention, embedding)
    for function in functions:
        patch.setattr(ops, function.__name__, function)
    patch.setattr(ascend_loss, "scatter_add", scatter_add)
    patch.setattr(ascend_rows, "split_tensor", split_tensor)
    patch.setattr(ascend_cache, "index_copy", index_copy)
    patch.setattr(ascend_candidates, "top_k", top_k)
    if fuses_float32:
        patch.setattr(ascend_attention, "FUSED_DTYPES", (ms.float16, ms.bfloat16, ms.float32))


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """x / √(mean(x²) + ε) · γ over the last axis, and 1 / √(…), float32; x and γ are of one type."""
    if x.dtype != gamma.dtype:
        raise TypeError("rms_norm: x and gamma have different types")
    x32 = x.astype(ms.float32)
    reciprocal = ops.rsqrt((x32 * x32).mean(-1, keep_dims=True) + epsilon)
    return (x32 * reciprocal * gamma.astype(ms.float32)).astype(x.dtype), reciprocal


def swiglu(input: Tensor, dim: int = -1) -> Tensor:
    """Swish of the first half of an axis times its second half."""
    a, b = ops.chunk(input, 2, dim)
    return a * ops.sigmoid(a) * b


def rotary_position_embedding(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
    """x·cos + (−second half, first half)·sin; of x (B, S, N, D), cos and sin have the layout (1 or B, S, 1, D)."""
    B, S, _, D = x.shape
    if mode != 0 or cos.shape not in ((1, S, 1, D), (B, S, 1, D)) or sin.shape != cos.shape or D >= 896:
        raise ValueError("rotary_position_embedding: expected the half-split mode and the layout BSND")
    if x.dtype != cos.dtype or x.dtype != sin.dtype:
        raise TypeError("rotary_position_embedding: x, cos and sin have different types")
    first, second = ops.chunk(x, 2, -1)
    return x * cos + ops.concat((-second, first), -1) * sin


def attention(q_BLND: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, is_hidden: Tensor, scale: float) -> Tensor:
    """softmax(q·kᵀ·scale)·v with repeated keys, over those that are not hidden (B or 1, 1, L, S)."""
    repeats = q_BLND.shape[2] // k_BSGD.shape[2]
    q_BNLD = q_BLND.swapaxes(1, 2)
    k_BNSD, v_BNSD = (ops.repeat_interleave(one.swapaxes(1, 2), repeats, 1) for one in (k_BSGD, v_BSGD))
    scores = _product_bt(q_BNLD, k_BNSD).astype(ms.float32) * scale
    weights = _softmax(scores - is_hidden.astype(ms.float32) * 1e30)
    return _product(weights.astype(v_BNSD.dtype), v_BNSD).swapaxes(1, 2)


def flash_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    real_shift: None = None,
    drop_mask: None = None,
    padding_mask: None = None,
    attn_mask: Tensor | None = None,
    prefix: None = None,
    actual_seq_qlen: Tensor | None = None,
    actual_seq_kvlen: Tensor | None = None,
    keep_prob: float = 1.0,
    scalar_value: float = 1.0,
    pre_tokens: int = NO_LIMIT,
    next_tokens: int = NO_LIMIT,
    inner_precise: int = 0,
    input_layout: str = "BSH",
    sparse_mode: int = 0,
) -> Tensor:
    """The layouts BSND under a whole mask, and TND (tokens of sequences one after another) under the causal one."""
    if attn_mask is None or attn_mask.dtype != ms.bool_ or query.shape[-1] % 16 or query.shape[-2] != head_num:
        raise ValueError("flash_attention_score: expected a bool mask, head_num heads and heads of a multiple of 16")
    if input_layout == "BSND" and sparse_mode == 0:
        B, L, _, _ = query.shape
        if attn_mask.shape != (B, 1, L, key.shape[1]):
            raise ValueError("flash_attention_score: expected a mask (B, 1, S1, S2)")
        return attention(query, key, value, attn_mask, scalar_value)
    if input_layout != "TND" or sparse_mode != 3 or attn_mask.shape != (MASK_SIZE, MASK_SIZE):
        raise ValueError("flash_attention_score: expected BSND, or TND with the compressed causal mask")
    if next_tokens != 0 or pre_tokens < query.shape[0]:
        raise ValueError(
            "flash_attention_score: expected next_tokens 0 and pre_tokens of at least the longest sequence"
        )
    is_hidden = hidden_in_sequences(query.shape[0], actual_seq_qlen, key.shape[0], actual_seq_kvlen)
    return attention(query[None], key[None], value[None], is_hidden, scalar_value)[0]


def hidden_in_sequences(T1: int, query_ends: Tensor, T2: int, key_ends: Tensor) -> Tensor:
    """Return (1, 1, T1, T2): the last query of a sequence sees all its keys, each one before it one key fewer."""
    queries, keys = Tensor(np.arange(T1).reshape(-1, 1)), Tensor(np.arange(T2).reshape(-1, 1))
    query_sequence = (queries >= query_ends).astype(ms.int32).sum(1)
    key_sequence = (keys >= key_ends).astype(ms.int32).sum(1)
    queries_left = ops.gather(query_ends, query_sequence, 0) - queries.reshape(-1)
    keys_left = ops.gather(key_ends, key_sequence, 0) - keys.reshape(-1)
    is_other = query_sequence.reshape(-1, 1) != key_sequence.reshape(1, -1)
    is_later = keys_left.reshape(1, -1) < queries_left.reshape(-1, 1)
    return ops.logical_or(is_other, is_later).reshape(1, 1, T1, T2)


def incre_flash_attention(
    query: Tensor,
    key: tuple[Tensor, ...],
    value: tuple[Tensor, ...],
    attn_mask: None = None,
    actual_seq_lengths: Tensor | None = None,
    num_heads: int = 1,
    input_layout: str = "BSH",
    scale_value: float = 1.0,
    num_key_value_heads: int = 0,
) -> Tensor:
    """One query (B, 1, N·D) for each sequence over its first keys (B, S, G·D); returns (B, 1, N·D)."""
    B, S, _ = key[0].shape
    if input_layout != "BSH" or actual_seq_lengths.dtype != ms.int64 or actual_seq_lengths.shape != (B,):
        raise ValueError("incre_flash_attention: expected the layout BSH and int64 lengths (B,)")
    is_hidden = Tensor(np.arange(S)).reshape(1, -1) >= actual_seq_lengths.reshape(-1, 1)
    attended = attention(
        query.reshape(B, 1, num_heads, -1),
        key[0].reshape(B, S, num_key_value_heads, -1),
        value[0].reshape(B, S, num_key_value_heads, -1),
        is_hidden.reshape(B, 1, 1, S),
        scale_value,
    )
    return attended.reshape(B, 1, -1)


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """Rows of a matrix by int32 or int64 index."""
    if len(weight.shape) != 2 or input.dtype not in (ms.int32, ms.int64):
        raise ValueError("embedding: expected integers and a matrix")
    return ops.gather(weight, input, 0)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """input[i][index[i][j]] += src[i][j] for dim 1."""
    if dim != 1:
        raise ValueError("scatter_add: expected dim 1")
    return _add_elements(input, index, src)


def split_tensor(input: Tensor, split_size: int, dim: int) -> tuple[Tensor, ...]:
    """Parts of `split_size` along an axis; the last may be smaller."""
    return ops.split(input, split_size, dim)


def top_k(input: Tensor, k: int, dim: int, largest: bool, sorted: bool) -> tuple[Tensor, Tensor]:
    """The k largest values of the last axis in descending order, and their indices, int64; ties in any order."""
    if (dim, largest, sorted) != (-1, True, True):
        raise ValueError("top_k: expected the largest values of the last axis, sorted")
    values, indices = _top_k(input, k)
    return values, indices.astype(ms.int64)


def index_copy(input: Any, dim: int, index: Tensor, tensor: Tensor) -> Tensor:
    """input[index[i]] = tensor[i] in place, for dim 0; of equal indices one wins."""
    if dim != 0:
        raise ValueError("index_copy: expected dim 0")
    return _scatter_update(input, index, tensor)
