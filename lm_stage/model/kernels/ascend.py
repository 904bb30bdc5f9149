"""Kernels in the forms that are documented to be fast on Ascend: fused operators of the aclnn library.

None of them has run on an NPU. Tests compile the graphs that they form, and compare them on a CPU with plain functions
in the operators' places. `--kernels plain` uses the CPU's kernels instead.

Heads have the layout (B, L, N, D), in which nothing is transposed from the projections to the output of attention.
Shape suffixes: see the package.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from lm_stage.model.kernels import Heads
from lm_stage.model.kernels.ascend_attention import Attention, PackedAttention, StepAttention
from lm_stage.model.kernels.ascend_cache import CacheIndex, LayerCache, cache_lengths
from lm_stage.model.kernels.ascend_candidates import Candidates
from lm_stage.model.kernels.ascend_loss import CrossEntropy
from lm_stage.model.kernels.ascend_optimizer import AdamWUpdate
from lm_stage.model.kernels.ascend_rows import look_up, split

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
HALF_SPLIT = 0  # the mode of rotary embedding in which element i is rotated with element i + D/2
_matmul_bt = ops.MatMul(transpose_b=True)


def linear(x_MC: Tensor, weight_KC: Tensor) -> Tensor:
    """x · weightᵀ."""
    return _matmul_bt(x_MC, weight_KC)


class RMSNorm(nn.Cell):
    """x·w / √(mean(x²) + ε) by one kernel, which computes in float32."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def construct(self, x_BLC: Tensor, weight_C: Tensor) -> Tensor:
        return ops.rms_norm(x_BLC, weight_C, self.eps)[0]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up; of its intermediate results only the input is kept for the gradient."""
    return ops.swiglu(ops.concat((gate, up), -1), -1)


def split_heads(x_BLC: Tensor, heads: int) -> Tensor:
    """Reshape (B, L, heads·D) to (B, L, heads, D)."""
    B, L, _ = x_BLC.shape
    return x_BLC.reshape(B, L, heads, -1)


class RotaryTables(nn.Cell):
    """The tables (B, L, 1, D) that `rotate` takes: the same for queries and keys."""

    def __init__(self, heads: Heads):
        super().__init__()
        self.D = heads.D

    def construct(self, cos_BLD: Tensor, sin_BLD: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        B, L, _ = cos_BLD.shape
        tables = cos_BLD.reshape(B, L, 1, self.D), sin_BLD.reshape(B, L, 1, self.D)
        return tables, tables


def rotate(x_BLND: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
    """Rotary position embedding by one kernel."""
    return ops.rotary_position_embedding(x_BLND, tables[0], tables[1], HALF_SPLIT)
