"""The KV cache on Ascend. See ascend.py for what has been tested.

Shape suffixes: see the package.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import InplaceIndexCopy

from lm_stage.model.kernels import Heads
from lm_stage.model.kernels.ascend_rows import look_up

index_copy = InplaceIndexCopy()


class CacheIndex(nn.Cell):
    """Where a cache of `rows` sequences of `length` tokens keeps new tokens, computed once for all layers."""

    def __init__(self, rows: int, heads: Heads, length: int):
        super().__init__()
        self.length = length
        self.first_index_R1 = Tensor(np.arange(rows) * length, ms.int32).reshape(rows, 1)

    def construct(self, positions_BL: Tensor, row_B: Tensor | None) -> Tensor:
        """Return indices (B·L,) of new tokens of some rows, or of all rows for None."""
        first_index_B1 = self.first_index_R1 if row_B is None else row_B.reshape(-1, 1) * self.length
        return (first_index_B1 + positions_BL).reshape(-1)


class LayerCache(nn.Cell):
    """Keys and values of one layer as matrices (R·S, G·D): a token of a row is contiguous."""

    def __init__(self, rows: int, heads: Heads, length: int, dtype: ms.Type):
        super().__init__()
        self.R, self.S, self.G, self.D = rows, length, heads.G, heads.D
        shape = (rows * length, heads.G * heads.D)
        # Without keyword arguments, with which `Parameter` would copy the tensor to the host and back.
        self.keys, self.values = (Parameter(ops.zeros(shape, dtype)) for _ in range(2))

    def construct(self, k_BLGD: Tensor, v_BLGD: Tensor, index: Tensor, row_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write new keys and values; return all keys and values (B, S, G, D) of the rows."""
        GD = self.G * self.D
        keys = index_copy(self.keys, 0, index, k_BLGD.reshape(-1, GD))
        values = index_copy(self.values, 0, index, v_BLGD.reshape(-1, GD))
        return self.rows(keys, row_B), self.rows(values, row_B)

    def rows(self, cached: Tensor, row_B: Tensor | None) -> Tensor:
        if row_B is not None:
            cached = look_up(cached.reshape(self.R, -1), row_B)
        return cached.reshape(-1, self.S, self.G, self.D)


def cache_lengths(rows: int, heads: Heads, length: int, dtype: ms.Type) -> tuple[int, ...]:
    """Return the whole length alone: the attention of a step reads no more keys than each row has."""
    return (length,)
