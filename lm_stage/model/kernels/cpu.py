"""Kernels in the forms that are fast on a CPU, with gradients written out where the framework's own are slow.

They consist of operators that Ascend has too. None of them broadcasts: on a CPU, `ops.tile` is ten times as fast.

Heads have the layout (B, N, L, D). Shape suffixes: see the package.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import SigmoidGrad

from lm_stage.model.kernels import Heads
from lm_stage.model.kernels.cpu_attention import Attention, PackedAttention, StepAttention
from lm_stage.model.kernels.cpu_cache import CacheIndex, LayerCache, cache_lengths
from lm_stage.model.kernels.cpu_loss import CrossEntropy, split
from lm_stage.model.kernels.cpu_optimizer import AdamWUpdate

__all__ = [
    "AdamWUpdate",
    "Attention",
    "CacheIndex",
    "Candidates",
    "CrossEntropy",
    "LayerCache",
    "PackedAttention",
    "RMSNorm",
    "RotaryTables",
    "StepAttention",
    "cache_lengths",
    "linear",
    "look_up",
    "rotate",
    "split",
    "split_heads",
    "swiglu",
]
_matmul = ops.MatMul()


class _Linear(nn.Cell):
    """x · weightᵀ. For one row `ops.MatMul` takes a thirtieth of the time of `ops.dense`."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul, self.matmul_bt = ops.MatMul(), ops.MatMul(transpose_b=True)
        self.matmul_at, self.transpose = ops.MatMul(transpose_a=True), ops.Transpose()

    def construct(self, x_MC: Tensor, weight_KC: Tensor) -> Tensor:
        return self.matmul_bt(x_MC, weight_KC)

    def bprop(self, x_MC: Tensor, weight_KC: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the weight is a product with the narrower side first, because that is faster."""
        K, C = weight_KC.shape
        dweight = self.transpose(self.matmul_at(x_MC, dout), (1, 0)) if C < K else self.matmul_at(dout, x_MC)
        return self.matmul(dout, weight_KC), dweight


_linear = _Linear()


def linear(x_MC: Tensor, weight_KC: Tensor) -> Tensor:
    """x · weightᵀ."""
    return _linear(x_MC, weight_KC)


def look_up(table_VC: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table by index."""
    return ops.gather(table_VC, ids, 0)


class RMSNorm(nn.Cell):
    """x·w / √(mean(x²) + ε), in float32 (arXiv:1910.07467)."""

    def __init__(self, eps: float):
        super().__init__()
        self.rows = _RMSNormOfRows(eps)

    def construct(self, x_BLC: Tensor, weight_C: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        normed_MC, _ = self.rows(x_BLC.reshape(B * L, C).astype(ms.float32), weight_C.astype(ms.float32))
        return normed_MC.astype(x_BLC.dtype).reshape(B, L, C)


class _RMSNormOfRows(nn.Cell):
    """The gradient of the framework takes several times as long on a CPU."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.mean, self.rsqrt = ops.ReduceMean(), ops.Rsqrt()
        self.outer, self.matmul, self.tile = ops.Ger(), ops.MatMul(), ops.Tile()

    def construct(self, x_MC: Tensor, weight_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized rows, and the factor of each row (M,) for the gradient."""
        factors_M = self.rsqrt(self.mean(x_MC * x_MC, -1) + self.eps)
        return x_MC * self.outer(factors_M, weight_C), factors_M

    def bprop(self, x_MC: Tensor, weight_C: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        """With factors f and gradient g: dx = f·w·g − x · f³ · mean(x·w·g), and dw = Σ f·x·g over the rows."""
        gradient, factors_M = dout[0], out[1]
        M, C = x_MC.shape
        along_MC = x_MC * gradient
        along_M = self.matmul(along_MC, weight_C.reshape(C, 1)).reshape(M) * factors_M * factors_M * factors_M / C
        dx_MC = gradient * self.outer(factors_M, weight_C) - x_MC * self.tile(along_M.reshape(M, 1), (1, C))
        return dx_MC, self.matmul(factors_M.reshape(1, M), along_MC).reshape(C)


class _SwiGLU(nn.Cell):
    """The gradient of the framework computes the sigmoid a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid, self.sigmoid_grad = ops.Sigmoid(), SigmoidGrad()

    def construct(self, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the product, and the sigmoid and the activated gate for the gradient."""
        sigmoid = self.sigmoid(gate)
        activated = gate * sigmoid
        return activated * up, sigmoid, activated

    def bprop(self, gate: Tensor, up: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        """The slope of a = g·s is s + g·s′."""
        _, sigmoid, activated = out
        slope = sigmoid + self.sigmoid_grad(sigmoid, gate)
        return dout[0] * up * slope, dout[0] * activated


_swiglu = _SwiGLU()


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (arXiv:2002.05202)."""
    return _swiglu(gate, up)[0]


def Candidates(guidance_scale: float, count: int) -> None:
    """Nothing: the host has all logits, and selects faster."""


def split_heads(x_BLC: Tensor, heads: int) -> Tensor:
    """Reshape (B, L, heads·D) to (B, heads, L, D)."""
    B, L, _ = x_BLC.shape
    return x_BLC.reshape(B, L, heads, -1).swapaxes(1, 2)


class RotaryTables(nn.Cell):
    """The tables that `rotate` takes for queries and for keys, computed once for all layers."""

    def __init__(self, heads: Heads):
        super().__init__()
        self.N, self.G = heads.N, heads.G
        half, zeros = np.eye(heads.D // 2, dtype=np.float32), np.zeros((heads.D // 2, heads.D // 2), np.float32)
        self.swap_DD = Tensor(np.block([[zeros, half], [-half, zeros]]))

    def construct(self, cos_BLD: Tensor, sin_BLD: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        B, L, D = cos_BLD.shape
        cos_B1LD, sin_B1LD = cos_BLD.reshape(B, 1, L, D), sin_BLD.reshape(B, 1, L, D)
        queries, keys, swap_DD = (1, self.N, 1, 1), (1, self.G, 1, 1), self.swap_DD.astype(cos_BLD.dtype)
        return (
            (ops.tile(cos_B1LD, queries), ops.tile(sin_B1LD, queries), swap_DD),
            (ops.tile(cos_B1LD, keys), ops.tile(sin_B1LD, keys), swap_DD),
        )


def rotate(x_BNLD: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
    """Rotary position embedding, half-split as in Llama (arXiv:2104.09864).

    A product with a signed permutation matrix swaps the halves and negates one: it is exact, and on a CPU it takes a
    twentieth of the time of slicing and concatenating.
    """
    cos, sin, swap_DD = tables
    B, N, L, D = x_BNLD.shape
    swapped = _matmul(x_BNLD.reshape(B * N * L, D), swap_DD).reshape(B, N, L, D)
    return x_BNLD * cos + swapped * sin
