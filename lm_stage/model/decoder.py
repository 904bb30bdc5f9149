"""The decoder of Emu3: RMSNorm, rotary positions, grouped-query attention, SwiGLU; Hugging Face parameter names.

Read top-down: decoder → backbone → block → its parts. A block is split at its attention into `attention_inputs` and
`finish`, so that the forward over a whole sequence (here) and the one over cached keys (kv_cache.py) share the rest.

Shape suffixes: B batch, L sequence, C hidden size, N query heads, G key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from lm_stage.model.attention import Attention, PackedAttention
from lm_stage.model.config import DecoderConfig
from lm_stage.model.kernels import cpu as kernels

Rotary = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # tables for queries and for keys


class Decoder(nn.Cell):
    """Token ids to logits over the vocabulary.

    Parameters are of `dtype`; training keeps them in float32 and computes in another `compute_dtype`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        dtype: ms.Type = ms.float32,
        is_fused: bool = False,
        compute_dtype: ms.Type | None = None,
    ):
        super().__init__()
        self.config = config
        self.model = Backbone(config, dtype, is_fused, compute_dtype or dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, dtype)

    @property
    def head_weight(self) -> Parameter:
        """The output head (V, C), which in a tied model is the embedding."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @ms.jit(jit_level="O0")
    def construct(self, token_ids_BL: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
        """Return float32 logits (B, L, V) of a causal forward, given `rotary_tables(config, L)`."""
        B, L = token_ids_BL.shape
        attention = self.model.attention
        mask = attention.mask(ops.ones((1, 1, L, L), ms.float32).triu(1).astype(ms.bool_))
        cos, sin = cos_LD.reshape(1, 1, L, -1), sin_LD.reshape(1, 1, L, -1)
        hidden_BLC = self.model(token_ids_BL, cos, sin, attention, mask)
        C = hidden_BLC.shape[-1]
        return kernels.linear(hidden_BLC.reshape(B * L, C), self.head_weight).astype(ms.float32).reshape(B, L, -1)


class Backbone(nn.Cell):
    """Embedding, blocks and final norm."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type, is_fused: bool, compute_dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.layers = nn.CellList([Block(config, dtype) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.rotary = kernels.RotaryTables(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.attention = Attention(config.num_attention_heads, config.num_key_value_heads, config.head_dim, is_fused)

    def construct(
        self,
        token_ids_BL: Tensor,
        cos_B1LD: Tensor,
        sin_B1LD: Tensor,
        attention: Attention | PackedAttention,
        mask: Tensor | tuple[Tensor, ...],
    ) -> Tensor:
        """Return the hidden states (B, L, C) after the final norm; `mask` is the result of `attention.mask`."""
        rotary = self.rotary(cos_B1LD, sin_B1LD)
        x_BLC = self.embed(token_ids_BL)
        for block in self.layers:
            x_BLC = block(x_BLC, rotary, attention, mask)
        return self.norm(x_BLC)

    def embed(self, token_ids_BL: Tensor) -> Tensor:
        return self.embed_tokens(token_ids_BL).astype(self.compute_dtype)


class Block(nn.Cell):
    """One layer: attention and feed-forward, each after a norm and with a residual connection."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = AttentionProjections(config, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = FeedForward(config, dtype)

    def construct(
        self, x_BLC: Tensor, rotary: Rotary, attention: Attention | PackedAttention, mask: Tensor | tuple[Tensor, ...]
    ) -> Tensor:
        q, k, v = self.attention_inputs(x_BLC, rotary)
        return self.finish(x_BLC, attention(q, k, v, mask))

    def attention_inputs(self, x_BLC: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, N, L, D), keys and values (B, G, L, D); queries and keys are rotated."""
        return self.self_attn.project_inputs(self.input_layernorm(x_BLC), rotary)

    def finish(self, x_BLC: Tensor, attended_BNLD: Tensor) -> Tensor:
        """Return the output of the layer, given its input and the output of attention."""
        x_BLC = x_BLC + self.self_attn.project_output(attended_BNLD)
        return x_BLC + self.mlp(self.post_attention_layernorm(x_BLC))


class AttentionProjections(nn.Cell):
    """The linear layers before and after attention."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type):
        super().__init__()
        self.N, self.G, self.D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = Linear(config.hidden_size, self.N * self.D, dtype)
        self.k_proj = Linear(config.hidden_size, self.G * self.D, dtype)
        self.v_proj = Linear(config.hidden_size, self.G * self.D, dtype)
        self.o_proj = Linear(self.N * self.D, config.hidden_size, dtype)

    def project_inputs(self, x_BLC: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        q_BNLD = split_heads(self.q_proj(x_BLC), self.N)
        k_BGLD = split_heads(self.k_proj(x_BLC), self.G)
        v_BGLD = split_heads(self.v_proj(x_BLC), self.G)
        return kernels.rotate(q_BNLD, rotary[0]), kernels.rotate(k_BGLD, rotary[1]), v_BGLD

    def project_output(self, attended_BNLD: Tensor) -> Tensor:
        B, N, L, D = attended_BNLD.shape
        return self.o_proj(attended_BNLD.swapaxes(1, 2).reshape(B, L, N * D))


class FeedForward(nn.Cell):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, dtype)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, dtype)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, dtype)

    def construct(self, x_BLC: Tensor) -> Tensor:
        return self.down_proj(kernels.swiglu(self.gate_proj(x_BLC), self.up_proj(x_BLC)))


class RMSNorm(nn.Cell):
    """Root mean square normalization (arXiv:1910.07467), in float32."""

    def __init__(self, size: int, eps: float, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("ones", (size,), dtype))
        self.rms_norm = kernels.RMSNorm(eps)

    def construct(self, x_BLC: Tensor) -> Tensor:
        return self.rms_norm(x_BLC, self.weight.astype(x_BLC.dtype))


class Linear(nn.Cell):
    """A linear layer without bias; weight (out, in). Adds the output of its `adapter` if it has one (lora.py)."""

    def __init__(self, c_in: int, c_out: int, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (c_out, c_in), dtype))
        self.adapter: LowRank | None = None

    def construct(self, x_BLC: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        x_MC = x_BLC.reshape(B * L, C)
        y_MC = kernels.linear(x_MC, self.weight.astype(x_BLC.dtype))
        if self.adapter is not None:
            y_MC = y_MC + self.adapter(x_MC)
        return y_MC.reshape(B, L, -1)


class LowRank(nn.Cell):
    """The two float32 matrices of an adapter; their product times `scale` is added to a weight."""

    def __init__(self, c_in: int, c_out: int, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.lora_A = Parameter(initializer("zeros", (rank, c_in), ms.float32))
        self.lora_B = Parameter(initializer("zeros", (c_out, rank), ms.float32))

    def construct(self, x_MC: Tensor) -> Tensor:
        low_MR = kernels.linear(x_MC, self.lora_A.astype(x_MC.dtype))
        return kernels.linear(low_MR, self.lora_B.astype(x_MC.dtype)) * self.scale


class Embedding(nn.Cell):
    """Rows of a table (V, C) by token id."""

    def __init__(self, vocab_size: int, size: int, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (vocab_size, size), dtype))

    def construct(self, token_ids: Tensor) -> Tensor:
        return ops.gather(self.weight, token_ids, 0)


def split_heads(x_BLC: Tensor, heads: int) -> Tensor:
    """Reshape (B, L, heads·D) to (B, heads, L, D)."""
    B, L, _ = x_BLC.shape
    return x_BLC.reshape(B, L, heads, -1).swapaxes(1, 2)


def rotary_tables(config: DecoderConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 cosines and signed sines (length, D) of positions 0 … length−1.

    Angles are float32 as in the published code, because its models were trained with that rounding.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1.0) / np.float32(config.rope_theta) ** exponents
    angles = np.outer(np.arange(length, dtype=np.float32), frequencies)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)
