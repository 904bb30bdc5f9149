"""Softmax attention with grouped keys and values: the one operation whose kernel differs by device.

`Attention` is over a buffer of keys, for cached decoding; `PackedAttention` over whole rows of packed samples, for
training. On Ascend both use the fused kernel, in half precision; on a CPU they use plain matrix products.

Shape suffixes: B batch, N query heads, G key/value heads, L queries, S keys, D head size.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from lm_stage.model.kernels import ascend, cpu
from lm_stage.model.kernels.cpu_attention import BlockwiseAttention

MASK_VALUE = -1e30  # added to the scores of masked keys; finite, so that a query without keys stays finite
MIN_BLOCK_SIZE, MAX_BLOCKS = 128, 8  # of queries; smaller blocks are slower, more blocks make graphs large


class Attention(nn.Cell):
    """Attention of some queries to all of a buffer of keys, under a mask."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int, is_fused: bool):
        super().__init__()
        self.N, self.G, self.D = heads, kv_heads, head_dim
        self.is_fused = is_fused
        self.scale = head_dim**-0.5

    def mask(self, is_masked_B1LS: Tensor) -> Tensor:
        """Return the mask that `construct` takes, computed once for all layers; the input is True at masked keys.

        The CPU kernel takes a mask for every query head, because broadcasting is slow there.
        """
        if self.is_fused:
            return is_masked_B1LS
        B, _, L, S = is_masked_B1LS.shape
        added = ops.tile(is_masked_B1LS.astype(ms.float32) * MASK_VALUE, (1, self.N, 1, 1))
        return added.reshape(B, self.G, self.N // self.G * L, S)

    def construct(self, q_BNLD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor) -> Tensor:
        """Return the outputs (B, N, L, D)."""
        if self.is_fused:
            return ascend.fused_attention(q_BNLD, k_BGSD, v_BGSD, mask, self.N, self.scale)
        return cpu.attention(q_BNLD, k_BGSD, v_BGSD, mask, self.scale)


def query_blocks(length: int, max_segment_length: int) -> tuple[tuple[int, int, int], ...]:
    """Split the queries of a row into blocks: (first query, end, first key that a query of the block can see).

    No query sees further back than its segment is long. First keys are block boundaries.
    """
    size = max(MIN_BLOCK_SIZE, -(-length // MAX_BLOCKS))
    return tuple(
        (start, min(start + size, length), max(0, start - max_segment_length + 1) // size * size)
        for start in range(0, length, size)
    )


class PackedAttention(nn.Cell):
    """Causal attention within rows of `length` tokens that hold samples, each of which sees only itself.

    Queries are processed in blocks, each against the keys that one of them could see: none after the block, and none
    further back than the longest sample. A long row of short samples costs a fraction of its square.
    """

    def __init__(self, attention: Attention, length: int, max_segment_length: int):
        super().__init__()
        self.attention = attention
        self.blocks = query_blocks(length, max_segment_length)
        self.blockwise = BlockwiseAttention(self.blocks, attention.N, attention.G, attention.D)
        self.is_future = tuple(
            Tensor(np.arange(first_key, end).reshape(1, 1, 1, -1) > np.arange(start, end).reshape(1, 1, -1, 1))
            for start, end, first_key in self.blocks
        )
        self.concat = ops.Concat(2)

    def mask(self, segments_BL: Tensor) -> tuple[Tensor, ...]:
        """Return the masks that `construct` takes, one a block; `segments_BL` numbers the samples of each row."""
        masks: tuple[Tensor, ...] = ()
        for index, (start, end, first_key) in enumerate(self.blocks):
            B, L, S = segments_BL.shape[0], end - start, end - first_key
            queries = segments_BL[:, start:end].reshape(B, 1, L, 1)
            keys = segments_BL[:, first_key:end].reshape(B, 1, 1, S)
            masks += (self.attention.mask(ops.logical_or(queries != keys, self.is_future[index])),)
        return masks

    def construct(self, q_BNLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs (B, N, L, D)."""
        if not self.attention.is_fused:
            return self.blockwise(q_BNLD, k_BGLD, v_BGLD, masks)[0]
        outputs: tuple[Tensor, ...] = ()
        for index, (start, end, first_key) in enumerate(self.blocks):
            keys, values = k_BGLD[:, :, first_key:end], v_BGLD[:, :, first_key:end]
            outputs += (self.attention(q_BNLD[:, :, start:end], keys, values, masks[index]),)
        return self.concat(outputs)
