"""The decoder with a static KV cache: `prefill` of a prompt, `decode_step` of one token for each row.

A row is one sequence. Every row has its own position, so rows start and end independently; the mask hides what an
earlier sequence left after a row's position until it is overwritten. All shapes are static: each function is compiled
once for a cache.

Shape suffixes: B batch, R rows, L new tokens, N query heads, G key/value heads, S cache length, D head size,
C hidden size, K output range.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from lm_stage.model.decoder import Decoder, rotary_tables
from lm_stage.model.kernels.cpu import linear

PREFILL_CHUNKS = (64, 512)  # tokens: two compiled shapes serve all prompts
LENGTH_STEP = 64  # cache lengths are multiples of it, so that few sizes are compiled


class LayerCache(nn.Cell):
    """Keys and values of one layer as matrices (R·G·S, D), so that one scatter writes a token of every row."""

    def __init__(self, rows: int, kv_heads: int, length: int, head_dim: int, dtype: ms.Type):
        super().__init__()
        self.shape_RGSD = (rows, kv_heads, length, head_dim)
        self.keys = Parameter(initializer("zeros", (rows * kv_heads * length, head_dim), dtype))
        self.values = Parameter(initializer("zeros", (rows * kv_heads * length, head_dim), dtype))
        self.write = ops.ScatterUpdate()

    def construct(self, k_BGLD: Tensor, v_BGLD: Tensor, cache_index: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values at their indices (B·G·L,); return all keys and values (R, G, S, D)."""
        D = k_BGLD.shape[-1]
        keys = self.write(self.keys, cache_index, k_BGLD.reshape(-1, D))
        values = self.write(self.values, cache_index, v_BGLD.reshape(-1, D))
        return keys.reshape(self.shape_RGSD), values.reshape(self.shape_RGSD)


class CachedDecoder(nn.Cell):
    """A decoder with a cache of `rows` sequences of up to `length` tokens.

    Its output head covers only the token ids from `first_id` up to, but not including, `end_id`; it is a copy of that
    part of the head.
    """

    def __init__(self, decoder: Decoder, rows: int, length: int, first_id: int = 0, end_id: int | None = None):
        super().__init__()
        config = decoder.config
        self.decoder = decoder
        self.rows, self.length = rows, -(-(length + 1) // LENGTH_STEP) * LENGTH_STEP
        is_whole = (first_id, end_id) in ((0, None), (0, config.vocab_size))
        self.head = None if is_whole else Parameter(decoder.head_weight[first_id:end_id])
        dtype = decoder.head_weight.dtype
        self.G = config.num_key_value_heads
        sizes = (rows, self.G, self.length, config.head_dim, dtype)
        self.caches = nn.CellList([LayerCache(*sizes) for _ in range(config.num_hidden_layers)])
        cos, sin = rotary_tables(config, self.length)
        self.cos_SD, self.sin_SD = Tensor(cos, dtype=dtype), Tensor(sin, dtype=dtype)
        self.all_positions = Tensor(np.arange(self.length), ms.int32).reshape(1, 1, 1, -1)
        self.first_index = Tensor(np.arange(rows * self.G) * self.length, ms.int32).reshape(rows, self.G, 1)

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        """Fill a row with a sequence from position 0 on; its previous content is discarded."""
        if len(token_ids) >= self.length:
            raise ValueError(f"row {row}: {len(token_ids)} tokens do not fit a cache of {self.length}")
        start = 0
        while start < len(token_ids):
            size = PREFILL_CHUNKS[len(token_ids) - start > 2 * PREFILL_CHUNKS[0]]
            chunk = token_ids[start : start + size]
            ids = np.zeros((1, size), np.int32)
            ids[0, : len(chunk)] = chunk
            # Padding is written to the last position, which is always overwritten before the mask uncovers it.
            positions = np.minimum(np.arange(start, start + size), self.length - 1)
            positions[len(chunk) :] = self.length - 1
            self._prefill_chunk(Tensor(ids), Tensor(positions[None], ms.int32), Tensor([row], ms.int32))
            start += size

    def decode_step(self, token_ids_R: np.ndarray, positions_R: np.ndarray) -> np.ndarray:
        """Append one token for each row at its position; return float32 logits (R, K) of the tokens that follow."""
        return self._decode_step(Tensor(token_ids_R, ms.int32), Tensor(positions_R, ms.int32)).asnumpy()

    @ms.jit(jit_level="O0")
    def _prefill_chunk(self, token_ids_BL: Tensor, positions_BL: Tensor, row_B: Tensor) -> Tensor:
        return self._forward(token_ids_BL, positions_BL, row_B)[:, :1, :1]  # unused: prefill only writes the cache

    @ms.jit(jit_level="O0")
    def _decode_step(self, token_ids_R: Tensor, positions_R: Tensor) -> Tensor:
        x_RLC = self._forward(token_ids_R.reshape(-1, 1), positions_R.reshape(-1, 1), None)
        hidden_RC = self.decoder.model.norm(x_RLC).reshape(self.rows, -1)
        head = self.decoder.head_weight if self.head is None else self.head
        return linear(hidden_RC, head).astype(ms.float32)

    def _forward(self, token_ids_BL: Tensor, positions_BL: Tensor, row_B: Tensor | None) -> Tensor:
        """Return the output (B, L, C) of the last block for new tokens of some rows, or of all rows for None."""
        model = self.decoder.model
        B, L = positions_BL.shape
        cos, sin = ops.gather(self.cos_SD, positions_BL, 0), ops.gather(self.sin_SD, positions_BL, 0)
        rotary = model.rotary(cos.reshape(B, 1, L, -1), sin.reshape(B, 1, L, -1))
        mask = model.attention.mask(self.all_positions > positions_BL.reshape(B, 1, L, 1))
        first_index = self.first_index if row_B is None else ops.gather(self.first_index, row_B, 0)
        cache_index = (first_index + positions_BL.reshape(B, 1, L)).reshape(-1)
        x_BLC = model.embed(token_ids_BL)
        for block, cache in zip(model.layers, self.caches):
            q, k, v = block.attention_inputs(x_BLC, rotary)
            keys, values = cache(k, v, cache_index)
            if row_B is not None:
                keys, values = ops.gather(keys, row_B, 0), ops.gather(values, row_B, 0)
            x_BLC = block.finish(x_BLC, model.attention(q, keys, values, mask))
        return x_BLC
