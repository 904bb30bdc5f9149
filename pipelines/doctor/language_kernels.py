"""The kernels of the decoder as cases, in the order in which a block uses them.

Shape suffixes: see `lm_stage.model.kernels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.doctor.kernel_case import Case, Computation, Inputs, Kernels, Sizes
from pipelines.doctor.training import SAMPLE_LENGTHS, random_batch

CACHE_ROWS, CACHE_LENGTH = 4, 256
BETA1, BETA2, RATE, EPS, DECAY = 0.9, 0.95, 0.5, 1e-3, 0.1  # a rate at which an update is as large as the weight
SEQUENCES, GUIDANCE_SCALE = 4, 2.0


def _heads(sizes: Sizes) -> Any:
    from lm_stage.model.kernels import Heads

    return Heads(sizes.heads, sizes.kv_heads, sizes.head_size)


def rms_norm(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    tensors = inputs.half(1, sizes.length, sizes.hidden), inputs.half(sizes.hidden)
    return Computation(kernels.RMSNorm(1e-5), tensors, (0, 1))


def linear(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    weight_KC = inputs.half(sizes.hidden, sizes.hidden, scale=sizes.hidden**-0.5)
    return Computation(kernels.linear, (inputs.half(sizes.length, sizes.hidden), weight_KC), (0, 1))


def look_up(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    table_VC = inputs.half(sizes.vocabulary, sizes.hidden)
    return Computation(kernels.look_up, (table_VC, inputs.ids(sizes.vocabulary, 1, sizes.length)), (0,))


def swiglu(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    gate, up = (inputs.half(1, sizes.length, sizes.intermediate) for _ in range(2))
    return Computation(kernels.swiglu, (gate, up), (0, 1))


def rotate(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    N, tables = sizes.heads, kernels.RotaryTables(_heads(sizes))

    def rotated(x_BLC: Any, cos_BLD: Any, sin_BLD: Any) -> Any:
        x = kernels.rotate(kernels.split_heads(x_BLC, N), tables(cos_BLD, sin_BLD)[0])
        if x.shape[1] == N:  # heads come before the queries
            x = x.swapaxes(1, 2)
        return x.reshape(x_BLC.shape)

    cos, sin = (_table(inputs, sizes, function) for function in (np.cos, np.sin))
    return Computation(rotated, (inputs.half(1, sizes.length, N * sizes.head_size), cos, sin), (0,))


def _table(inputs: Inputs, sizes: Sizes, function: Any) -> Any:
    import mindspore as ms

    D = sizes.head_size
    angles = np.outer(np.arange(sizes.length), 10000.0 ** -(np.arange(0, D, 2) / D))
    return ms.Tensor(function(np.tile(angles, 2))[None].astype(np.float32)).astype(inputs.dtype)


def attention(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    import mindspore as ms

    attend, L = kernels.Attention(_heads(sizes), inputs.dtype), sizes.length
    positions_S = ms.Tensor(np.arange(L), ms.int32)

    def attended(q_BLC: Any, k_BLC: Any, v_BLC: Any) -> Any:
        mask = attend.mask(positions_S.reshape(1, L), positions_S)
        return attend(*_split(kernels, sizes, q_BLC, k_BLC, v_BLC), mask)

    return Computation(attended, _projections(inputs, sizes, 1, L), (0, 1, 2))


def packed_attention(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    import mindspore as ms

    batch = random_batch(sizes.vocabulary)
    B, L = batch.segments_BL.shape
    attend = kernels.PackedAttention(_heads(sizes), L, max(SAMPLE_LENGTHS), inputs.dtype)
    ids_BL = np.arange(B * L, dtype=np.int32).reshape(B, L)
    packed = attend.inputs(ids_BL, batch.positions_BL, batch.segments_BL)
    ids, _, packing = (ms.Tensor(array) for array in packed)

    def attended(q_BLC: Any, k_BLC: Any, v_BLC: Any) -> Any:
        rows = (ms.ops.gather(x.reshape(B * L, -1), ids, 0) for x in (q_BLC, k_BLC, v_BLC))
        y = attend(*_split(kernels, sizes, *rows), attend.mask(packing))
        return y.reshape(-1, y.shape[-1])[: B * L].reshape(B, L, -1)[:, : sum(SAMPLE_LENGTHS)]

    return Computation(attended, _projections(inputs, sizes, B, L), (0, 1, 2))


def cached_attention(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    """Two rows of a cache are filled; then one query for each row sees the keys of that row."""
    import mindspore as ms

    heads, R, S, L = _heads(sizes), CACHE_ROWS, CACHE_LENGTH, sizes.length
    cache, index = kernels.LayerCache(R, heads, S, inputs.dtype), kernels.CacheIndex(R, heads, S)
    step = kernels.StepAttention(heads, inputs.dtype)
    rows, positions_S = ms.Tensor(np.array([0, 2]), ms.int32), ms.Tensor(np.arange(S), ms.int32)
    positions_BL = ms.Tensor(np.tile(np.arange(L), (2, 1)), ms.int32)
    last_R = ms.Tensor(np.array([L, 0, L // 2, 0]), ms.int32)

    def attended(k_BLC: Any, v_BLC: Any, q_RLC: Any, k_RLC: Any, v_RLC: Any) -> Any:
        keys, values = (kernels.split_heads(x, heads.G) for x in (k_BLC, v_BLC))
        filled = cache(keys, values, index(positions_BL, rows), rows)
        q, k, v = _split(kernels, sizes, q_RLC, k_RLC, v_RLC)
        k = ms.ops.depend(k, filled)
        all_keys, all_values = cache(k, v, index(last_R.reshape(R, 1), None), None)
        return step(q, all_keys, all_values, step.mask((last_R + 1).astype(ms.int64), positions_S))

    _, *prompt = _projections(inputs, sizes, 2, L)
    return Computation(attended, (*prompt, *_projections(inputs, sizes, R, 1)))


def cross_entropy(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    K = sizes.length
    hidden_KC = inputs.half(K, sizes.hidden)
    head_VC = inputs.half(sizes.vocabulary, sizes.hidden, scale=sizes.hidden**-0.5)
    weights_K = inputs.full(K).abs()
    return Computation(kernels.CrossEntropy(), (hidden_KC, head_VC, inputs.ids(sizes.vocabulary, K), weights_K))


def split(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    """The parts are put together in the opposite order; the last one is smaller."""
    import mindspore as ms

    def reordered(x_KC: Any) -> Any:
        return ms.ops.concat(kernels.split(x_KC, 3 * sizes.length // 8)[::-1], 0)

    return Computation(reordered, (inputs.half(sizes.length, sizes.hidden),), (0,))


def adamw_update(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    """Two updates in float32: the first with weight decay, the second without."""
    import mindspore as ms

    shape = sizes.length, sizes.hidden
    values = {"weight": inputs.full(*shape), "m": inputs.full(*shape), "v": inputs.full(*shape).abs() + 0.5}
    state = [ms.Parameter(tensor, name=name) for name, tensor in values.items()]
    rate, eps, decay = (ms.Tensor(value, ms.float32) for value in (RATE, EPS, DECAY))
    update = kernels.AdamWUpdate(BETA1, BETA2)

    def updated(gradient: Any) -> Any:
        first = update(*state, rate, eps, decay, gradient)
        return first, update(*state, rate, eps, None, gradient)

    return Computation(updated, (inputs.full(*shape),), updated=state)


def candidates(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    """Logits that are integers, none of them twice in a sequence after guidance; those of one sequence are infinite."""
    import mindspore as ms

    V = sizes.vocabulary
    guided_PK = np.stack([inputs.random.permutation(V) for _ in range(SEQUENCES)])
    cond_PK = inputs.random.integers(0, V, (SEQUENCES, V))
    logits_MK = np.concatenate([cond_PK, 2 * cond_PK - guided_PK]).astype(np.float32)  # guided by a scale of 2
    logits_MK[1] = np.inf
    # The kernels for CPU have none, because the host selects there.
    select = kernels.Candidates(GUIDANCE_SCALE, V // 16) or _selection(V // 16)

    def selected(logits_MK: Any) -> Any:
        logits_Pk, tokens_Pk, is_finite_P = select(logits_MK)
        is_finite_P1 = is_finite_P.astype(ms.int32).reshape(-1, 1)
        return ms.ops.nan_to_num(logits_Pk, 0.0, 0.0, 0.0) * is_finite_P1, tokens_Pk * is_finite_P1, is_finite_P1

    return Computation(selected, (ms.Tensor(logits_MK),))


def _selection(count: int) -> Any:
    """Return `Candidates` by operators that a CPU has."""
    import mindspore as ms

    top_k = ms.ops.TopK(sorted=True)

    def select(logits_MK: Any) -> Any:
        cond_PK, uncond_PK = logits_MK[:SEQUENCES], logits_MK[SEQUENCES:]
        logits_PK = uncond_PK + GUIDANCE_SCALE * (cond_PK - uncond_PK)
        logits_Pk, tokens_Pk = top_k(logits_PK, count)
        return logits_Pk, tokens_Pk, ms.ops.isfinite(logits_PK).all(1)

    return select


def _split(kernels: Kernels, sizes: Sizes, q_BLC: Any, k_BLC: Any, v_BLC: Any) -> tuple[Any, Any, Any]:
    counts = sizes.heads, sizes.kv_heads, sizes.kv_heads
    q, k, v = (kernels.split_heads(x, count) for x, count in zip((q_BLC, k_BLC, v_BLC), counts))
    return q, k, v


def _projections(inputs: Inputs, sizes: Sizes, rows: int, length: int) -> tuple[Any, ...]:
    """Return queries, keys and values before they are split into heads."""
    counts = sizes.heads, sizes.kv_heads, sizes.kv_heads
    return tuple(inputs.half(rows, length, count * sizes.head_size) for count in counts)


CASES: dict[str, Case] = {
    "look-up": look_up,
    "rms-norm": rms_norm,
    "linear": linear,
    "rotate": rotate,
    "attention": attention,
    "packed-attention": packed_attention,
    "cached-attention": cached_attention,
    "swiglu": swiglu,
    "cross-entropy": cross_entropy,
    "split": split,
    "adamw-update": adamw_update,
    "candidates": candidates,
}
