"""How the operations of the decoder are computed: each in the form that its device runs fast, gradients included.

`cpu` and `ascend` define the same names, those of `Kernels`. A model is built with one of them and knows no device.

Shape suffixes: B batch, R rows of a KV cache, L queries, S keys, C hidden size, N query heads, G key/value heads,
D head size, K outputs of a linear layer, V vocabulary, M = B·L. A name without a suffix has the layout of its module.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from shared.device import Device

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import Tensor

PackedInputs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of attention: their numbers, and the size of each."""

    N: int
    G: int
    D: int


class Kernels(Protocol):
    """The names that every module of kernels defines. Cells are built once; functions have no state."""

    def linear(self, x_MC: Tensor, weight_KC: Tensor) -> Tensor:
        """Return x · weightᵀ (M, K)."""

    def look_up(self, table_VC: Tensor, ids: Tensor) -> Tensor:
        """Return the rows of a table, (…, C) for ids (…)."""

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) · up (arXiv:2002.05202)."""

    def split_heads(self, x_BLC: Tensor, heads: int) -> Tensor:
        """Return the heads of a projection (B, L, heads·D), in the layout of the module."""

    def rotate(self, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        """Return heads after rotary position embedding, half-split as in Llama (arXiv:2104.09864)."""

    def RMSNorm(self, eps: float) -> Any:
        """Return a cell (x_BLC, weight_C) → x·w / √(mean(x²) + ε), in float32 (arXiv:1910.07467)."""

    def RotaryTables(self, heads: Heads) -> Any:
        """Return a cell (cos_BLD, sin_BLD) → the tables that `rotate` takes, for queries and for keys."""

    def Attention(self, heads: Heads, dtype: ms.Type) -> Any:
        """Return a cell (queries, keys, values, mask) → (B, L, N·D): each query sees the keys up to its position.

        Its `mask(positions_BL, key_positions_S)` is computed once for all layers.
        """

    def StepAttention(self, heads: Heads, dtype: ms.Type) -> Any:
        """Return attention of one query for each row of a cache.

        Its `mask(lengths_R, key_positions_S)` takes the number of keys that each row has, int64.
        """

    def PackedAttention(self, heads: Heads, length: int, max_segment_length: int, dtype: ms.Type) -> Any:
        """Return causal attention within rows of `length` tokens that hold samples, each of which sees only itself.

        No sample is longer than `max_segment_length`. Its `inputs(token_ids_BL, positions_BL, segments_BL)` takes
        NumPy arrays, `segments_BL` being the number of each token's sample, and returns token ids and positions as the
        model takes them (all rows, perhaps as one, with more tokens at the end), and what its `mask` takes.
        """

    def CrossEntropy(self) -> Any:
        """Return a cell (hidden_KC, head_VC, targets_K, weights_K) → the weighted sum of −log p(target), float32.

        It also returns the gradients of that sum by the hidden states, and by the head in float32.
        """

    def AdamWUpdate(self, beta1: float, beta2: float) -> Any:
        """Return a cell (weight, m, v, rate, eps, decay, gradient) that updates a float32 weight and its moments.

        m ← β₁·m + (1 − β₁)·g,  v ← β₂·v + (1 − β₂)·g²,  weight ← weight − rate·(m/(√v + ε) + decay·weight). `rate`,
        `eps` and `decay` are scalars; None: no decay.
        """

    def split(self, x: Tensor, size: int) -> tuple[Tensor, ...]:
        """Return parts of `size` elements along the first axis; the last may be smaller."""

    def CacheIndex(self, rows: int, heads: Heads, length: int) -> Any:
        """Return a cell (positions_BL, row_B) → where a KV cache keeps new tokens, computed once for all layers.

        `row_B` are the rows of the new tokens; None: all.
        """

    def LayerCache(self, rows: int, heads: Heads, length: int, dtype: ms.Type) -> Any:
        """Return a cell (keys, values, index, row_B) that writes to the KV cache of one layer.

        It returns all keys and values of the rows.
        """

    def cache_lengths(self, rows: int, heads: Heads, length: int, dtype: ms.Type) -> tuple[int, ...]:
        """Return the lengths, in ascending order, between which a KV cache moves as its longest sequence grows.

        The last is `length`. With several, `LayerCache` has `copy_from(other)`, which copies what there is room for.
        """

    def Candidates(self, guidance_scale: float, count: int) -> Any:
        """Return a cell logits (M, K) → the `count` largest of each sequence after guidance, and their indices.

        They are (P, count), in descending order, the indices int32. It also returns which rows (P,) are finite. With
        guidance P = M/2: the first half of the rows is guided by the second. None: the host selects.
        """


def select(device: Device) -> Kernels:
    """Return the module of kernels that models on this device are built with."""
    return cast("Kernels", import_module(f"{__name__}.{device.kernels}"))
