"""The layers of the decoder that have weights, under Hugging Face's names; kernels compute them.

Shape suffixes: B batch, L sequence, C input size, V vocabulary, M = B·L, R rank of an adapter,
D head size, H = L·heads.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer

from lm_stage.model.kernels import Kernels


class RMSNorm(nn.Cell):
    """Root mean square normalization (arXiv:1910.07467), in float32."""

    def __init__(self, size: int, eps: float, dtype: ms.Type, kernels: Kernels):
        super().__init__()
        self.weight = Parameter(initializer("ones", (size,), dtype))
        self.rms_norm = kernels.RMSNorm(eps)

    def construct(self, x_BLC: Tensor) -> Tensor:
        return self.rms_norm(x_BLC, self.weight.astype(x_BLC.dtype))


class HeadNorm(RMSNorm):
    """The same over each head of a projection (B, L, heads·D); all heads have one weight (D,)."""

    def construct(self, x_BLC: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        x_BHD = x_BLC.reshape(B, -1, self.weight.shape[0])
        return self.rms_norm(x_BHD, self.weight.astype(x_BLC.dtype)).reshape(B, L, C)


class Linear(nn.Cell):
    """A linear layer without bias; weight (out, in). Adds the output of its `adapter` if it has one (lora.py)."""

    def __init__(self, c_in: int, c_out: int, dtype: ms.Type, kernels: Kernels):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (c_out, c_in), dtype))
        self.linear = kernels.linear
        self.adapter: LowRank | None = None

    def construct(self, x_BLC: Tensor) -> Tensor:
        B, L, C = x_BLC.shape
        x_MC = x_BLC.reshape(B * L, C)
        y_MC = self.linear(x_MC, self.weight.astype(x_BLC.dtype))
        if self.adapter is not None:
            y_MC = y_MC + self.adapter(x_MC)
        return y_MC.reshape(B, L, -1)


class LowRank(nn.Cell):
    """The two float32 matrices of an adapter; their product times `scale` is added to a weight."""

    def __init__(self, c_in: int, c_out: int, rank: int, scale: float, kernels: Kernels):
        super().__init__()
        self.scale = scale
        self.lora_A = Parameter(initializer("zeros", (rank, c_in), ms.float32))
        self.lora_B = Parameter(initializer("zeros", (c_out, rank), ms.float32))
        self.linear = kernels.linear

    def construct(self, x_MC: Tensor) -> Tensor:
        low_MR = self.linear(x_MC, self.lora_A.astype(x_MC.dtype))
        return self.linear(low_MR, self.lora_B.astype(x_MC.dtype)) * self.scale


class Embedding(nn.Cell):
    """Rows of a table (V, C) by token id."""

    def __init__(self, vocab_size: int, size: int, dtype: ms.Type, kernels: Kernels):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (vocab_size, size), dtype))
        self.look_up = kernels.look_up

    def construct(self, token_ids: Tensor) -> Tensor:
        return self.look_up(self.weight, token_ids)
