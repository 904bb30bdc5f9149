"""The decoder with a static KV cache: `prefill` of a prompt, `decode_step` of one or several tokens for each row.

A row is one sequence. Every row has its own position, so rows start and end independently; the mask hides what an
earlier sequence, or a draft that turned out wrong, left after a row's position until it is overwritten. All shapes are
static: each function is compiled once for a cache, and for each number of tokens in a step.

Shape suffixes: B batch, R rows, L new tokens, S cache length, C hidden size, K output range, M = R·L.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from lm_stage.model.candidate_step import CandidateStep
from lm_stage.model.decoder import Decoder, heads_of, rotary_tables

PREFILL_CHUNKS = (64, 512)  # tokens: two compiled shapes serve all prompts


class CachedAttention(nn.Cell):
    """Attention of a block over the keys of its cache, after the new ones are written to it."""

    def __init__(self, cache: nn.Cell, attention: nn.Cell):
        super().__init__()
        self.cache, self.attention = cache, attention

    def construct(self, queries: Tensor, keys: Tensor, values: Tensor, where: tuple[Tensor | None, ...]) -> Tensor:
        """`where`: the cache index of the new keys, their rows (None: all), and the mask of the attention."""
        index, row_B, mask = where
        all_keys, all_values = self.cache(keys, values, index, row_B)
        return self.attention(queries, all_keys, all_values, mask)


class CachedDecoder(nn.Cell):
    """A decoder with a cache of `rows` sequences of up to `length` tokens.

    The last position is spare: no sequence ends there. `head` is the part of the output head that is computed; None:
    all of it.
    """

    def __init__(self, decoder: Decoder, rows: int, length: int, head: Parameter | None = None):
        super().__init__()
        config, kernels, dtype = decoder.config, decoder.kernels, decoder.compute_dtype
        heads = heads_of(config)
        self.decoder, self.head = decoder, head
        self.rows, self.length = rows, length
        self.caches = [kernels.LayerCache(rows, heads, length, dtype) for _ in range(config.num_hidden_layers)]
        whole, step = kernels.Attention(heads, dtype), kernels.StepAttention(heads, dtype)
        self.prefill_attentions = nn.CellList([CachedAttention(cache, whole) for cache in self.caches])
        self.step_attentions = nn.CellList([CachedAttention(cache, step) for cache in self.caches])
        self.cache_index = kernels.CacheIndex(rows, heads, length)
        self.look_up, self.linear = kernels.look_up, kernels.linear
        cos, sin = rotary_tables(config, length)
        self.cos_SD, self.sin_SD = Tensor(cos, dtype=dtype), Tensor(sin, dtype=dtype)
        self.key_positions_S = Tensor(np.arange(length), ms.int32)

    def resized(self, length: int) -> CachedDecoder:
        """Return the same decoder with an empty cache of another length."""
        return CachedDecoder(self.decoder, self.rows, length, self.head)

    def copy_cache(self, other: CachedDecoder) -> None:
        """Copy what the cache of another length holds, as far as there is room for it."""
        for cache, other_cache in zip(self.caches, other.caches):
            cache.copy_from(other_cache)

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

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        """Write the next L tokens of each row, whatever was at their positions; see `CachedModel`."""
        logits_RLK: np.ndarray = self.step(token_ids_RL, positions_RL).asnumpy().reshape(*token_ids_RL.shape, -1)
        return logits_RLK

    def candidate_step(self, guidance_scale: float, count: int) -> CandidateStep | None:
        """Return a step whose logits stay on the device, unless that is the host; see `CachedModel`."""
        return CandidateStep.of(self, self.decoder.kernels.Candidates(guidance_scale, count))

    def step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> Tensor:
        """Return the float32 logits (R·L, K) of new tokens, on the device."""
        # What is beyond the end of the cache goes to the last position, which no sequence uncovers.
        positions_RL = np.minimum(positions_RL, self.length - 1)
        tensors = Tensor(token_ids_RL, ms.int32), Tensor(positions_RL, ms.int32)
        if token_ids_RL.shape[1] == 1:
            return self._decode_step(*tensors, Tensor(positions_RL[:, 0] + 1, ms.int64))
        return self._decode_window(*tensors)

    @ms.jit(jit_level="O0")
    def _prefill_chunk(self, token_ids_BL: Tensor, positions_BL: Tensor, row_B: Tensor) -> Tensor:
        mask = self.prefill_attentions[0].attention.mask(positions_BL, self.key_positions_S)
        where = self.cache_index(positions_BL, row_B), row_B, mask
        return self._forward(token_ids_BL, positions_BL, self.prefill_attentions, where)  # only writes the cache

    @ms.jit(jit_level="O0")
    def _decode_step(self, token_ids_RL: Tensor, positions_RL: Tensor, lengths_R: Tensor) -> Tensor:
        mask = self.step_attentions[0].attention.mask(lengths_R, self.key_positions_S)
        return self._logits(token_ids_RL, positions_RL, self.step_attentions, mask)

    @ms.jit(jit_level="O0")
    def _decode_window(self, token_ids_RL: Tensor, positions_RL: Tensor) -> Tensor:
        mask = self.prefill_attentions[0].attention.mask(positions_RL, self.key_positions_S)
        return self._logits(token_ids_RL, positions_RL, self.prefill_attentions, mask)

    def _logits(self, token_ids_RL: Tensor, positions_RL: Tensor, attentions: nn.CellList, mask: Tensor) -> Tensor:
        """Return the float32 logits (R·L, K) of new tokens of all rows."""
        R, L = token_ids_RL.shape
        where = self.cache_index(positions_RL, None), None, mask
        x_RLC = self._forward(token_ids_RL, positions_RL, attentions, where)
        hidden_MC = self.decoder.model.norm(x_RLC).reshape(R * L, -1)
        head = self.decoder.head_weight if self.head is None else self.head
        return self.linear(hidden_MC, head).astype(ms.float32)

    def _forward(
        self, token_ids_BL: Tensor, positions_BL: Tensor, attentions: nn.CellList, where: tuple[Tensor | None, ...]
    ) -> Tensor:
        """Return the output (B, L, C) of the last block."""
        cos_BLD, sin_BLD = self.look_up(self.cos_SD, positions_BL), self.look_up(self.sin_SD, positions_BL)
        return self.decoder.model(token_ids_BL, cos_BLD, sin_BLD, attentions, where)
