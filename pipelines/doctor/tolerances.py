"""How far results may be from those of a CPU in float32, by number type.

The values for float32 are those that the tests of this project hold on CPU, with room for another order of sums. For
half precision, `codes` and `pixels` leave room above what rounding costs on a CPU (tests/benchmarks/half_precision.py);
the others follow from the spacing of the type (2⁻¹¹ and 2⁻⁸, relative). None has been measured on an NPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`codes` is the smallest share of equal codes; `pixels` the largest mean difference in levels of 255.

    `logits` and `kernels` are the largest difference relative to the largest expected value, `losses` relative to each.
    """

    codes: float
    pixels: float
    logits: float
    losses: float
    kernels: float


TOLERANCES = {
    "float32": Tolerance(codes=0.99, pixels=0.5, logits=1e-3, losses=1e-3, kernels=1e-4),
    "float16": Tolerance(codes=0.90, pixels=1.0, logits=2e-2, losses=2e-2, kernels=5e-3),
    "bfloat16": Tolerance(codes=0.50, pixels=3.0, logits=1e-1, losses=1e-1, kernels=4e-2),
}


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest expected value; infinity for NaN or another shape."""
    if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(got.astype(np.float64) - expected).max(initial=0.0)) / scale
