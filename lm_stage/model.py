"""The decoder of Emu3: RMSNorm, rotary positions, grouped attention, SwiGLU; Hugging Face parameter names.

Read top-down: decoder → backbone → block → its parts. A block is split at its attention into `attention_inputs` and
`finish`, so that the forward over a whole sequence (here) and the one over cached keys (kv_cache.py) share all of it.

Shape suffixes: B batch, L sequence, C hidden size, N query heads, G key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from lm_stage.attention import Attention
from lm_stage.config import DecoderConfig


class Decoder(nn.Cell):
    """Token ids to logits over the vocabulary. `is_fused` takes the device's fused attention."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type = ms.float32, is_fused: bool = False):
        super().__init__()
        self.config = config
        self.model = Backbone(config, dtype, is_fused)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, dtype)

    @property
    def head_weight(self) -> Parameter:
        """Output head (V, C): the embedding itself in a tied model."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @ms.jit(jit_level="O0")
    def construct(self, token_ids_BL: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
        """Float32 logits (B, L, V) of a causal forward; the rotary tables are those of `rotary_tables(config, L)`."""
        hidden_BLC = self.model(token_ids_BL, cos_LD, sin_LD)
        B, L, C = hidden_BLC.shape
        return project(hidden_BLC.reshape(B * L, C), self.head_weight).astype(ms.float32).reshape(B, L, -1)


class Backbone(nn.Cell):
    """Embedding, blocks and final norm."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type, is_fused: bool):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.layers = nn.CellList([Block(config, dtype) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.attention = Attention(config.num_attention_heads, config.num_key_value_heads, config.head_dim, is_fused)

    def construct(self, token_ids_BL: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
        """Hidden states (B, L, C) after the final norm."""
        L = token_ids_BL.shape[1]
        mask = self.attention.mask(ops.ones((1, 1, L, L), ms.float32).triu(1).astype(ms.bool_))
        x_BLC = self.embed_tokens(token_ids_BL)
        for block in self.layers:
            q, k, v = block.attention_inputs(x_BLC, cos_LD, sin_LD)
            x_BLC = block.finish(x_BLC, self.attention(q, k, v, mask))
        return self.norm(x_BLC)


class Block(nn.Cell):
    """One layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = AttentionProjections(config, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = FeedForward(config, dtype)

    def attention_inputs(self, x_BLC: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, L, D), keys and values (B, G, L, D); queries and keys rotated to their positions."""
        return self.self_attn.heads(self.input_layernorm(x_BLC), cos, sin)

    def finish(self, x_BLC: Tensor, attended_BNLD: Tensor) -> Tensor:
        """The layer's output from its input and what attention gave."""
        x_BLC = x_BLC + self.self_attn.merge(attended_BNLD)
        return x_BLC + self.mlp(self.post_attention_layernorm(x_BLC))


class AttentionProjections(nn.Cell):
    """Linear layers before and after attention."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type):
        super().__init__()
        self.N, self.G, self.D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = Linear(config.hidden_size, self.N * self.D, dtype)
        self.k_proj = Linear(config.hidden_size, self.G * self.D, dtype)
        self.v_proj = Linear(config.hidden_size, self.G * self.D, dtype)
        self.o_proj = Linear(self.N * self.D, config.hidden_size, dtype)

    def heads(self, x_BLC: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BNLD = split_heads(self.q_proj(x_BLC), self.N)
        k_BGLD = split_heads(self.k_proj(x_BLC), self.G)
        return rotate(q_BNLD, cos, sin), rotate(k_BGLD, cos, sin), split_heads(self.v_proj(x_BLC), self.G)

    def merge(self, attended_BNLD: Tensor) -> Tensor:
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
        return self.down_proj(ops.silu(self.gate_proj(x_BLC)) * self.up_proj(x_BLC))


class RMSNorm(nn.Cell):
    """Root mean square normalisation (arXiv:1910.07467), in float32."""

    def __init__(self, size: int, eps: float, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("ones", (size,), dtype))
        self.eps = eps
        self.mean = ops.ReduceMean(keep_dims=True)
        self.rsqrt = ops.Rsqrt()

    def construct(self, x_BLC: Tensor) -> Tensor:
        x = x_BLC.astype(ms.float32)
        return (x * self.rsqrt(self.mean(x * x, -1) + self.eps)).astype(x_BLC.dtype) * self.weight


class Linear(nn.Cell):
    """Linear layer without bias; weight (out, in)."""

    def __init__(self, c_in: int, c_out: int, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (c_out, c_in), dtype))

    def construct(self, x_BLC: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        return project(x_BLC.reshape(B * L, C), self.weight).reshape(B, L, -1)


class Embedding(nn.Cell):
    """Rows of a table (V, C) by token id."""

    def __init__(self, vocab_size: int, size: int, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (vocab_size, size), dtype))

    def construct(self, token_ids: Tensor) -> Tensor:
        return ops.gather(self.weight, token_ids, 0)


_matmul_transposed = ops.MatMul(transpose_b=True)


def project(x_MC: Tensor, weight_KC: Tensor) -> Tensor:
    """x · weightᵀ, (M, K). On CPU this operator takes a thirtieth of the time of `ops.dense` for one row."""
    return _matmul_transposed(x_MC, weight_KC)


def split_heads(x_BLC: Tensor, heads: int) -> Tensor:
    """(B, L, heads·D) to (B, heads, L, D)."""
    B, L, _ = x_BLC.shape
    return x_BLC.reshape(B, L, heads, -1).swapaxes(1, 2)


def rotate(x_BNLD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv:2104.09864), half-split as in Llama; `sin` carries the sign of each half."""
    half = x_BNLD.shape[-1] // 2
    swapped = ops.concat((x_BNLD[..., half:], x_BNLD[..., :half]), -1)
    return x_BNLD * cos + swapped * sin


def rotary_tables(config: DecoderConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 cosines and signed sines (length, D) of positions 0 … length−1.

    Angles are float32 as in the published code: its models were trained with that rounding.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1.0) / np.float32(config.rope_theta) ** exponents
    angles = np.outer(np.arange(length, dtype=np.float32), frequencies)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)
