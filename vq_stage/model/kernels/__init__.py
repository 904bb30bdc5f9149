"""How the operations of the network are computed, each in the form that its device runs fast, gradients included.

`Kernels` says what every operation computes; the modules `cpu` and `ascend` define it. Convolutions and products are
computed in the type of their weights and return float32; everything else is computed in float32.
Shape suffixes: B batch, T frames, C channels, H W grid, L = H·W positions, K codebook entries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import Tensor, nn

    from shared.device import Device

Padding = int | tuple[int, int, int, int]
Affine = tuple["Tensor", "Tensor"]  # weight and bias


class Kernels(Protocol):
    """What a module of kernels defines."""

    def GroupNorm(self, groups: int, eps: float) -> nn.Cell:
        """Return a cell that normalizes groups of channels: (x_BCHW, weight_C, bias_C) to y_BCHW."""
        ...

    def SpatialNorm(self, groups: int, eps: float) -> nn.Cell:
        """Return a cell that normalizes groups of channels, then scales and shifts every position by its latents.

        It takes (x_BCHW, quantized_BCHW, norm, scale, shift); `norm` are the weight_C and bias_C of the normalization,
        the others weights (C, c_in, 1, 1) and biases of 1×1 convolutions of the latents. It returns y_BCHW.
        """
        ...

    def conv2d(self, x_BCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1, pad: Padding = 0) -> Tensor:
        """Convolve with a square kernel (c_out, c_in, k, k); `pad` is for all sides or (top, bottom, left, right)."""
        ...

    def causal_conv3d(self, x_BTCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1) -> Tensor:
        """Convolve over frames with a kernel (c_out, c_in, taps, k, k) that sees the past only.

        Two zero frames come first. `stride` is over frames; rows and columns are padded to keep their number.
        """
        ...

    def upsample_nearest(self, x_BCHW: Tensor, factor: int) -> Tensor:
        """Repeat every pixel `factor` times along both sides: (B, C, H, W) to (B, C, H·factor, W·factor)."""
        ...

    def upsample2x_conv(self, x_BCHW: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
        """Double both sides by nearest neighbor, then convolve with a 3×3 kernel (C, C, 3, 3) and padding 1."""
        ...

    def channel_linear(self, x_BCL: Tensor, weight_CC: Tensor, bias_C: Tensor) -> Tensor:
        """Apply a linear layer to the channels of every position: weight·x + bias, (B, C, L)."""
        ...

    def attention(self, q_BCL: Tensor, k_BCL: Tensor, v_BCL: Tensor, dtype: ms.Type) -> Tensor:
        """softmax(qᵀ·k/√C)·v for a single head without a mask, (B, C, L); `dtype` is the type of the products."""
        ...

    def nearest_codes(self, latents_BTCHW: Tensor, codebook_KC: Tensor) -> Tensor:
        """Return the index of the codebook entry nearest to every latent, int (B, T, H, W); the lowest one for ties."""
        ...

    def argmax_codes(self, latents_BTCHW: Tensor, codebook_KC: Tensor) -> Tensor:
        """Return the index of the codebook entry with the largest dot product, int (B, T, H, W); the lowest for ties.

        Latents are compared in parts, so that the products with a large codebook fit in memory.
        """
        ...

    def lookup(self, codes_BTHW: Tensor, codebook_KC: Tensor) -> Tensor:
        """Return the codebook entries (B, T, H, W, C) of codes."""
        ...

    def mean_squared_error(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean of (x − y)² over all elements, a scalar."""
        ...


def select(device: Device) -> Kernels:
    """Return the module of kernels that models on this device are built with."""
    return cast("Kernels", import_module(f"{__name__}.{device.kernels}"))
