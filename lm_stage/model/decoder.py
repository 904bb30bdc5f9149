"""The decoder of Emu3 and Emu3.5: RMSNorm, rotary positions, grouped-query attention, SwiGLU; Hugging Face names.

Read top-down: decoder → backbone → block → attention and feed-forward. This file says what is computed; how, on each
device, is in kernels/. Callers choose the attention of all blocks: over whole sequences (here), over packed samples
(training), or over cached keys (kv_cache.py).

Shape suffixes: B batch, L sequence, C hidden size, D head size, V vocabulary, K positions that the output has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from lm_stage.model.config import DecoderConfig
from lm_stage.model.kernels import Heads, Kernels, cpu
from lm_stage.model.layers import Embedding, HeadNorm, Linear, RMSNorm

Rotary = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # tables for queries and for keys
Mask: TypeAlias = "Tensor | tuple[Tensor | None, ...]"  # of an attention, computed once for all blocks


class Decoder(nn.Cell):
    """Token ids to logits over the vocabulary.

    Parameters are of `dtype`; training keeps them in float32 and computes in another `compute_dtype`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        dtype: ms.Type = ms.float32,
        kernels: Kernels = cpu,
        compute_dtype: ms.Type | None = None,
    ):
        super().__init__()
        self.config, self.kernels = config, kernels
        self.compute_dtype = compute_dtype or dtype
        self.model = Backbone(config, dtype, kernels, self.compute_dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, dtype, kernels)
        self.linear = kernels.linear
        self.attention = kernels.Attention(heads_of(config), self.compute_dtype)

    @property
    def head_weight(self) -> Parameter:
        """The output head (V, C), which in a tied model is the embedding."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @ms.jit(jit_level="O0")
    def construct(self, token_ids_BL: Tensor, positions_BL: Tensor, cos_BLD: Tensor, sin_BLD: Tensor) -> Tensor:
        """Return float32 logits (1, L, V) of a causal forward over positions 0 … L−1, given their rotary tables."""
        B, L = token_ids_BL.shape
        mask = self.attention.mask(positions_BL, positions_BL.reshape(-1))
        attentions = (self.attention,) * self.config.num_hidden_layers
        hidden_BLC = self.model.norm(self.model(token_ids_BL, cos_BLD, sin_BLD, attentions, mask))
        logits_MV = self.linear(hidden_BLC.reshape(B * L, -1), self.head_weight)
        return logits_MV.astype(ms.float32).reshape(B, L, -1)


class Backbone(nn.Cell):
    """Embedding and blocks; callers apply the final norm, because a decode step needs it for one token of each row."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type, kernels: Kernels, compute_dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype, kernels)
        self.layers = nn.CellList([Block(config, dtype, kernels) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, kernels)
        self.rotary = kernels.RotaryTables(heads_of(config))

    def construct(
        self,
        token_ids_BL: Tensor,
        cos_BLD: Tensor,
        sin_BLD: Tensor,
        attentions: Sequence[nn.Cell],
        mask: Mask,
        indices_K: Tensor | None = None,
    ) -> Tensor:
        """Return the output (B, L, C) of the last block; the attentions of all blocks are given with their mask.

        With `indices_K`, positions in the flattened rows, the output (1, K, C) has only those.
        """
        rotary, last = self.rotary(cos_BLD, sin_BLD), len(self.layers) - 1
        x_BLC = self.embed_tokens(token_ids_BL).astype(self.compute_dtype)
        for index, block in enumerate(self.layers):
            x_BLC = block(x_BLC, rotary, attentions[index], mask, indices_K if index == last else None)
        return x_BLC


class Block(nn.Cell):
    """One layer: attention and feed-forward, each after a norm and with a residual connection."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type, kernels: Kernels):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, kernels)
        self.self_attn = SelfAttention(config, dtype, kernels)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, kernels)
        self.mlp = FeedForward(config, dtype, kernels)
        self.look_up = kernels.look_up

    def construct(
        self, x_BLC: Tensor, rotary: Rotary, attention: nn.Cell, mask: Mask, indices_K: Tensor | None = None
    ) -> Tensor:
        """Return the output (B, L, C), or (1, K, C) of some positions in the flattened rows."""
        x_BLC = x_BLC + self.self_attn(self.input_layernorm(x_BLC), rotary, attention, mask)
        if indices_K is not None:
            x_BLC = self.look_up(x_BLC.reshape(-1, x_BLC.shape[-1]), indices_K).reshape(1, indices_K.shape[0], -1)
        return x_BLC + self.mlp(self.post_attention_layernorm(x_BLC))


class SelfAttention(nn.Cell):
    """Grouped-query attention (arXiv:2305.13245) with rotary positions (arXiv:2104.09864).

    Models that have the weights for it normalize each head of queries and keys before the rotation, as in Qwen3
    (arXiv:2505.09388).
    """

    def __init__(self, config: DecoderConfig, dtype: ms.Type, kernels: Kernels):
        super().__init__()
        self.N, self.G, self.D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = Linear(config.hidden_size, self.N * self.D, dtype, kernels)
        self.k_proj = Linear(config.hidden_size, self.G * self.D, dtype, kernels)
        self.v_proj = Linear(config.hidden_size, self.G * self.D, dtype, kernels)
        self.o_proj = Linear(self.N * self.D, config.hidden_size, dtype, kernels)
        eps, has_norms = config.rms_norm_eps, config.qk_norm
        self.q_norm = HeadNorm(self.D, eps, dtype, kernels) if has_norms else nn.Identity()
        self.k_norm = HeadNorm(self.D, eps, dtype, kernels) if has_norms else nn.Identity()
        self.split_heads, self.rotate = kernels.split_heads, kernels.rotate

    def construct(self, x_BLC: Tensor, rotary: Rotary, attention: nn.Cell, mask: Mask) -> Tensor:
        queries = self.rotate(self.split_heads(self.q_norm(self.q_proj(x_BLC)), self.N), rotary[0])
        keys = self.rotate(self.split_heads(self.k_norm(self.k_proj(x_BLC)), self.G), rotary[1])
        values = self.split_heads(self.v_proj(x_BLC), self.G)
        return self.o_proj(attention(queries, keys, values, mask))


class FeedForward(nn.Cell):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type, kernels: Kernels):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, dtype, kernels)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, dtype, kernels)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, dtype, kernels)
        self.swiglu = kernels.swiglu

    def construct(self, x_BLC: Tensor) -> Tensor:
        return self.down_proj(self.swiglu(self.gate_proj(x_BLC), self.up_proj(x_BLC)))


def heads_of(config: DecoderConfig) -> Heads:
    return Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)


def rotary_tables(config: DecoderConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 cosines and sines (length, D) of positions 0 … length−1.

    Angles are float32 as in the published code, because its models were trained with that rounding.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1.0) / np.float32(config.rope_theta) ** exponents
    angles = np.outer(np.arange(length, dtype=np.float32), frequencies)
    return np.concatenate([np.cos(angles)] * 2, 1), np.concatenate([np.sin(angles)] * 2, 1)
