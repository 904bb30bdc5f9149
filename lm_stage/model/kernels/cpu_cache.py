"""The KV cache on a CPU.

Shape suffixes: see the package.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from lm_stage.model.kernels import Heads


class CacheIndex(nn.Cell):
    """Where a cache of `rows` sequences of `length` tokens keeps new tokens, computed once for all layers."""

    def __init__(self, rows: int, heads: Heads, length: int):
        super().__init__()
        self.first_index = Tensor(np.arange(rows * heads.G) * length, ms.int32).reshape(rows, heads.G, 1)

    def construct(self, positions_BL: Tensor, row_B: Tensor | None) -> Tensor:
        """Return indices (B·G·L,) of new tokens of some rows, or of all rows for None."""
        B, L = positions_BL.shape
        first_index = self.first_index if row_B is None else ops.gather(self.first_index, row_B, 0)
        return (first_index + positions_BL.reshape(B, 1, L)).reshape(-1)


class LayerCache(nn.Cell):
    """Keys and values of one layer as matrices (R·G·S, D), so that one scatter writes a token of every row."""

    def __init__(self, rows: int, heads: Heads, length: int, dtype: ms.Type):
        super().__init__()
        self.shape_RGSD = (rows, heads.G, length, heads.D)
        shape = (rows * heads.G * length, heads.D)
        # Without keyword arguments, with which `Parameter` would copy the tensor to the host and back.
        self.keys, self.values = (Parameter(ops.zeros(shape, dtype)) for _ in range(2))
        self.write = ops.ScatterUpdate()

    def construct(self, k_BGLD: Tensor, v_BGLD: Tensor, index: Tensor, row_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write new keys and values; return all keys and values (B, G, S, D) of the rows."""
        D = k_BGLD.shape[-1]
        keys = self.write(self.keys, index, k_BGLD.reshape(-1, D)).reshape(self.shape_RGSD)
        values = self.write(self.values, index, v_BGLD.reshape(-1, D)).reshape(self.shape_RGSD)
        if row_B is None:
            return keys, values
        return ops.gather(keys, row_B, 0), ops.gather(values, row_B, 0)
