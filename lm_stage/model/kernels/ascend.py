"""Kernels in the forms that are fast on Ascend. They have not run yet."""

from __future__ import annotations

from lm_stage.model.kernels.cpu import (
    Attention,
    CacheIndex,
    LayerCache,
    PackedAttention,
    RMSNorm,
    RotaryTables,
    StepAttention,
    linear,
    look_up,
    rotate,
    split_heads,
    swiglu,
)

__all__ = [
    "Attention",
    "CacheIndex",
    "LayerCache",
    "PackedAttention",
    "RMSNorm",
    "RotaryTables",
    "StepAttention",
    "linear",
    "look_up",
    "rotate",
    "split_heads",
    "swiglu",
]
