"""3×3 convolutions with half of the products: Winograd's minimal filtering F(4, 3), over rows only.

A tile is four rows of the output. It takes the six input rows d₀ … d₅ around them and the taps g₀ … g₅, which are sums
of the kernel's rows: six convolutions of 1×3 replace twelve. Columns are left to the convolutions, because additions
over both directions would take longer than the products that they save.

Shape suffixes: B batch, C channels, H W grid, N tiles (one row of the shape for every four rows).
Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

TILE = 4  # rows of the output
MIN_CHANNELS = 64  # with fewer, the additions take longer than the products that they save
MIN_ROWS = 3  # fewer rows would fill too little of a tile
_TAPS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)


def pays_off(rows: int, weight: Tensor) -> bool:
    """Return whether `conv3x3` is faster than a plain convolution, and as exact. Half precision would lose digits."""
    c_out, c_in = weight.shape[:2]
    return weight.dtype == ms.float32 and rows >= MIN_ROWS and min(c_out, c_in) >= MIN_CHANNELS


def conv3x3(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
    """Convolve with a kernel (c_out, c_in, 3, 3), stride 1 and padding 1; returns (B, c_out, H, W)."""
    B, _, H, W = x_BCHW.shape
    c_out = weight.shape[0]
    convolve = ops.Conv2D(c_out, (1, 3), pad_mode="pad", pad=(0, 0, 1, 1))
    m0, m1, m2, m3, m4, m5 = [convolve(rows, taps) for rows, taps in zip(_input_rows(x_BCHW), _taps(weight))]
    sum_12, difference_12 = ops.BiasAdd()(m1 + m2, bias_C), ops.BiasAdd()(m1 - m2, bias_C)
    sum_34, difference_34 = m3 + m4, m3 - m4
    y0_BCNW = m0 + sum_12 + sum_34
    y1_BCNW = difference_12 + difference_34 * 2
    y2_BCNW = sum_12 + sum_34 * 4
    y3_BCNW = difference_12 + difference_34 * 8 + m5
    y_BCHW = ops.concat((y0_BCNW, y1_BCNW, y2_BCNW, y3_BCNW), 3).reshape(B, c_out, -1, W)
    return y_BCHW if y_BCHW.shape[2] == H else _part(y_BCHW, 0, H, 0, W)


def _input_rows(x_BCHW: Tensor) -> tuple[Tensor, ...]:
    """Return the six sums (B, C, N, W) of the rows d₀ … d₅ of every tile; d₀ is the row above the tile."""
    B, C, H, W = x_BCHW.shape
    tiles = -(-H // TILE)
    above, below = ops.zeros((B, C, 1, W), x_BCHW.dtype), ops.zeros((B, C, TILE * (tiles + 1) - H - 1, W), x_BCHW.dtype)
    tiled = ops.concat((above, x_BCHW, below), 2).reshape(B, C, tiles + 1, TILE * W)
    d0, d1, d2, d3 = [_part(tiled, 0, tiles, row * W, W) for row in range(TILE)]
    d4, d5 = [_part(tiled, 1, tiles, row * W, W) for row in range(2)]
    even_12, odd_12 = d4 - d2 * 4, d3 - d1 * 4
    even_34, odd_34 = d4 - d2, (d3 - d1) * 2
    return (
        (d0 - d2) * 4 + even_34,
        even_12 + odd_12,
        even_12 - odd_12,
        even_34 + odd_34,
        even_34 - odd_34,
        d5 - d3 - odd_34 * 2,
    )


def _taps(weight: Tensor) -> tuple[Tensor, ...]:
    """Return the six kernels (c_out, c_in, 1, 3) of a kernel with three rows."""
    c_out, c_in, _, _ = weight.shape
    rows_3N = weight.transpose(2, 0, 1, 3).reshape(3, -1)
    taps_6N = ops.MatMul()(Tensor(_TAPS, weight.dtype), rows_3N)
    return tuple([taps.reshape(c_out, c_in, 1, 3) for taps in ops.split(taps_6N, 1)])


def _part(x_BCHW: Tensor, row: int, rows: int, column: int, columns: int) -> Tensor:
    """Return some rows and columns. Indexing would take many times as long as `Slice`."""
    B, C, _, _ = x_BCHW.shape
    return ops.Slice()(x_BCHW, (0, 0, row, column), (B, C, rows, columns))
