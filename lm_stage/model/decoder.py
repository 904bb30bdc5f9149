"""The decoder of Emu3: RMSNorm, rotary positions, grouped attention, SwiGLU; Hugging Face parameter names.

Read top-down: decoder → backbone → block → its parts. A block is split at its attention into `attention_inputs` and
`finish`, so that the forward over a whole sequence (here) and the one over cached keys (kv_cache.py) share all of it.

Sums and products repeat no lines by themselves: `ops.tile` does, because on CPU that is ten times as fast.

Shape suffixes: B batch, L sequence, C hidden size, N query heads, G key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from lm_stage.model.attention import Attention, PackedAttention
from lm_stage.model.config import DecoderConfig


class Decoder(nn.Cell):
    """Token ids to logits over the vocabulary. `is_fused` takes the device's fused attention.

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
        """Output head (V, C): the embedding itself in a tied model."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @ms.jit(jit_level="O0")
    def construct(self, token_ids_BL: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
        """Float32 logits (B, L, V) of a causal forward; the rotary tables are those of `rotary_tables(config, L)`."""
        B, L = token_ids_BL.shape
        attention = self.model.attention
        mask = attention.mask(ops.ones((1, 1, L, L), ms.float32).triu(1).astype(ms.bool_))
        cos, sin = cos_LD.reshape(1, 1, L, -1), sin_LD.reshape(1, 1, L, -1)
        hidden_BLC = self.model(token_ids_BL, cos, sin, attention, mask)
        C = hidden_BLC.shape[-1]
        return project(hidden_BLC.reshape(B * L, C), self.head_weight).astype(ms.float32).reshape(B, L, -1)


class Backbone(nn.Cell):
    """Embedding, blocks and final norm."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type, is_fused: bool, compute_dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.layers = nn.CellList([Block(config, dtype) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.rotary = Rotary(config)
        self.attention = Attention(config.num_attention_heads, config.num_key_value_heads, config.head_dim, is_fused)

    def construct(
        self,
        token_ids_BL: Tensor,
        cos_B1LD: Tensor,
        sin_B1LD: Tensor,
        attention: Attention | PackedAttention,
        mask: Tensor | tuple[Tensor, ...],
    ) -> Tensor:
        """Hidden states (B, L, C) after the final norm; `mask` is what the `mask` of the attention made."""
        rotary = self.rotary.tables(cos_B1LD, sin_B1LD)
        x_BLC = self.embed(token_ids_BL)
        for block in self.layers:
            x_BLC = block(x_BLC, rotary, attention, mask)
        return self.norm(x_BLC)

    def embed(self, token_ids_BL: Tensor) -> Tensor:
        return self.embed_tokens(token_ids_BL).astype(self.compute_dtype)


class Block(nn.Cell):
    """One layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: DecoderConfig, dtype: ms.Type):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = AttentionProjections(config, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = FeedForward(config, dtype)

    def construct(
        self,
        x_BLC: Tensor,
        rotary: tuple[Tensor, ...],
        attention: Attention | PackedAttention,
        mask: Tensor | tuple[Tensor, ...],
    ) -> Tensor:
        q, k, v = self.attention_inputs(x_BLC, rotary)
        return self.finish(x_BLC, attention(q, k, v, mask))

    def attention_inputs(self, x_BLC: Tensor, rotary: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, L, D), keys and values (B, G, L, D); queries and keys rotated to their positions."""
        return self.self_attn.heads(self.input_layernorm(x_BLC), rotary)

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

    def heads(self, x_BLC: Tensor, rotary: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        cos_q, sin_q, cos_k, sin_k, swap = rotary
        q_BNLD = split_heads(self.q_proj(x_BLC), self.N)
        k_BGLD = split_heads(self.k_proj(x_BLC), self.G)
        v_BGLD = split_heads(self.v_proj(x_BLC), self.G)
        return rotate(q_BNLD, cos_q, sin_q, swap), rotate(k_BGLD, cos_k, sin_k, swap), v_BGLD

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
        self.gated = Gated()

    def construct(self, x_BLC: Tensor) -> Tensor:
        gated_BLI, _, _ = self.gated(self.gate_proj(x_BLC), self.up_proj(x_BLC))
        return self.down_proj(gated_BLI)


class Gated(nn.Cell):
    """silu(gate) · up with its gradient written out: the framework's own computes the sigmoid twice."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid, self.ones_like, self.lerp = ops.Sigmoid(), ops.OnesLike(), ops.Lerp()

    def construct(self, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The product; sigmoid and activated gate, which only the gradient uses."""
        sigmoid = self.sigmoid(gate)
        activated = gate * sigmoid
        return activated * up, sigmoid, activated

    def bprop(self, gate: Tensor, up: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        """Of silu a = g·s: s + a·(1 − s), a point between a and 1."""
        _, sigmoid, activated = out
        slope = self.lerp(activated, self.ones_like(activated), sigmoid)
        return dout[0] * up * slope, dout[0] * activated


class Rotary(nn.Cell):
    """Rotary position embedding (arXiv:2104.09864), half-split as in Llama."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.N, self.G = config.num_attention_heads, config.num_key_value_heads
        half, D = config.head_dim // 2, config.head_dim
        self.swap_DD = Tensor(np.roll(np.eye(D, dtype=np.float32), half, axis=1))

    def tables(self, cos_B1LD: Tensor, sin_B1LD: Tensor) -> tuple[Tensor, ...]:
        """What `rotate` takes for queries and for keys, made once for all layers: a line a head."""
        queries, keys = (1, self.N, 1, 1), (1, self.G, 1, 1)
        return (
            ops.tile(cos_B1LD, queries),
            ops.tile(sin_B1LD, queries),
            ops.tile(cos_B1LD, keys),
            ops.tile(sin_B1LD, keys),
            self.swap_DD.astype(cos_B1LD.dtype),
        )


class RMSNorm(nn.Cell):
    """Root mean square normalisation (arXiv:1910.07467), in float32."""

    def __init__(self, size: int, eps: float, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("ones", (size,), dtype))
        self.normalize = Normalize(eps)

    def construct(self, x_BLC: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        weight = self.weight.astype(x_BLC.dtype).astype(ms.float32)  # as rounded as all others that are computed with
        normed_MC, _ = self.normalize(x_BLC.reshape(B * L, C).astype(ms.float32), weight)
        return normed_MC.astype(x_BLC.dtype).reshape(B, L, C)


class Normalize(nn.Cell):
    """x·w / √(mean(x²) + ε) with its gradient written out: the framework's own takes a multiple of the time on CPU."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.mean, self.rsqrt = ops.ReduceMean(), ops.Rsqrt()
        self.outer, self.product, self.tile = ops.Ger(), ops.MatMul(), ops.Tile()

    def construct(self, x_MC: Tensor, weight_C: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised x, and the factor of each line (M,), which only the gradient uses."""
        factors_M = self.rsqrt(self.mean(x_MC * x_MC, -1) + self.eps)
        return x_MC * self.outer(factors_M, weight_C), factors_M

    def bprop(self, x_MC: Tensor, weight_C: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        """With factors f and gradient g: dx = f·w·g − x · f³ · mean(x·w·g), dw = Σ f·x·g over the lines."""
        gradient, factors_M = dout[0], out[1]
        M, C = x_MC.shape
        along_MC = x_MC * gradient
        along_M = self.product(along_MC, weight_C.reshape(C, 1)).reshape(M) * factors_M * factors_M * factors_M / C
        dx_MC = gradient * self.outer(factors_M, weight_C) - x_MC * self.tile(along_M.reshape(M, 1), (1, C))
        return dx_MC, self.product(factors_M.reshape(1, M), along_MC).reshape(C)


class Linear(nn.Cell):
    """Linear layer without bias; weight (out, in). `adapter`, if there is one, adds to it (lora.py)."""

    def __init__(self, c_in: int, c_out: int, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (c_out, c_in), dtype))
        self.adapter: LowRank | None = None

    def construct(self, x_BLC: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        x_MC = x_BLC.reshape(B * L, C)
        y_MC = project(x_MC, self.weight.astype(x_BLC.dtype))
        if self.adapter is not None:
            y_MC = y_MC + self.adapter(x_MC)
        return y_MC.reshape(B, L, -1)


class LowRank(nn.Cell):
    """The two thin matrices of an adapter, float32; their product times `scale` is what it adds to a weight."""

    def __init__(self, c_in: int, c_out: int, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.lora_A = Parameter(initializer("zeros", (rank, c_in), ms.float32))
        self.lora_B = Parameter(initializer("zeros", (c_out, rank), ms.float32))

    def construct(self, x_MC: Tensor) -> Tensor:
        return project(project(x_MC, self.lora_A.astype(x_MC.dtype)), self.lora_B.astype(x_MC.dtype)) * self.scale


class Embedding(nn.Cell):
    """Rows of a table (V, C) by token id."""

    def __init__(self, vocab_size: int, size: int, dtype: ms.Type):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (vocab_size, size), dtype))

    def construct(self, token_ids: Tensor) -> Tensor:
        return ops.gather(self.weight, token_ids, 0)


class Projection(nn.Cell):
    """x · weightᵀ, (M, K), with its gradient written out in the forms that are fast on CPU.

    The operator takes a thirtieth of the time of `ops.dense` for one row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.product, self.product_bt = ops.MatMul(), ops.MatMul(transpose_b=True)
        self.product_at, self.transpose = ops.MatMul(transpose_a=True), ops.Transpose()

    def construct(self, x_MC: Tensor, weight_KC: Tensor) -> Tensor:
        return self.product_bt(x_MC, weight_KC)

    def bprop(self, x_MC: Tensor, weight_KC: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the weight is a product with the narrower side first, because that is faster."""
        K, C = weight_KC.shape
        dweight = self.transpose(self.product_at(x_MC, dout), (1, 0)) if C < K else self.product_at(dout, x_MC)
        return self.product(dout, weight_KC), dweight


project = Projection()
_matmul = ops.MatMul()


def split_heads(x_BLC: Tensor, heads: int) -> Tensor:
    """(B, L, heads·D) to (B, heads, L, D)."""
    B, L, _ = x_BLC.shape
    return x_BLC.reshape(B, L, heads, -1).swapaxes(1, 2)


def rotate(x_BNLD: Tensor, cos: Tensor, sin: Tensor, swap_DD: Tensor) -> Tensor:
    """Rotates pairs of the two halves; `sin` carries the sign of each half, `swap_DD` exchanges them.

    A permutation is exact as a product, and that takes a twentieth of the time of cutting and joining on CPU.
    """
    B, N, L, D = x_BNLD.shape
    swapped = _matmul(x_BNLD.reshape(B * N * L, D), swap_DD).reshape(B, N, L, D)
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
