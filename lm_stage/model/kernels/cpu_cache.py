"""The KV cache on a CPU.

Shape suffixes: see the package.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from lm_stage.model.kernels import Heads
from lm_stage.model.kernels.cpu_attention import Attention

FIRST_LENGTH = 256  # tokens; the attention of shorter caches takes a small part of a step


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

    def copy_from(self, other: LayerCache) -> None:
        """Copy the keys and values of a cache of another length, as far as there is room for them."""
        length, filled = self.shape_RGSD[2], min(self.shape_RGSD[2], other.shape_RGSD[2])
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            kept_RGSD = theirs.reshape(other.shape_RGSD)[:, :, :filled]
            free_RGSD = ops.zeros((*kept_RGSD.shape[:2], length - filled, kept_RGSD.shape[3]), mine.dtype)
            ops.assign(mine, ops.concat((kept_RGSD, free_RGSD), 2).reshape(mine.shape))


def cache_lengths(rows: int, heads: Heads, length: int, dtype: ms.Type) -> tuple[int, ...]:
    """Return doubling lengths up to `length`, without those whose attention would round differently.

    A product over the keys is summed up in blocks, whose sizes depend on the number of keys. Only if they agree, a
    sequence does not depend on its neighbors, the longest of which decides the length.
    """
    shorter = [FIRST_LENGTH << power for power in range((max(length - 1, 1) // FIRST_LENGTH).bit_length())]
    if not shorter:
        return (length,)
    probe = _AttentionProbe(rows, heads, length, dtype)
    return (*(short for short in shorter if probe.is_equal(short)), length)


class _AttentionProbe:
    """Compares the attention over shorter caches with that over `length` keys, for steps and for windows."""

    def __init__(self, rows: int, heads: Heads, length: int, dtype: ms.Type):
        random = np.random.default_rng(0)
        shape_RGSD = (rows, heads.G, length, heads.D)
        self.keys, self.values = (Tensor(random.standard_normal(shape_RGSD, np.float32), dtype) for _ in range(2))
        self.queries = [
            Tensor(random.standard_normal((rows, heads.N, L, heads.D), np.float32), dtype) for L in (1, 4, 16)
        ]
        self.length, self.attention = length, Attention(heads, dtype)

    def is_equal(self, short: int) -> bool:
        """Return whether queries that see `short` − 1 keys, as many as are in use, give the same bits."""
        return all(
            np.array_equal(self.outputs(queries, short, short), self.outputs(queries, self.length, short))
            for queries in self.queries
        )

    def outputs(self, q_RNLD: Tensor, length: int, filled: int) -> np.ndarray:
        R, _, L, _ = q_RNLD.shape
        positions_RL = Tensor(np.full((R, L), filled - 2), ms.int32)
        mask = self.attention.mask(positions_RL, Tensor(np.arange(length), ms.int32))
        keys, values = self.keys[:, :, :length], self.values[:, :, :length]
        outputs: np.ndarray = self.attention(q_RNLD, keys, values, mask).astype(ms.float32).asnumpy()
        return outputs
