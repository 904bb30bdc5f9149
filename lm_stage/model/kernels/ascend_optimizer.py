"""The update of AdamW on Ascend. See ascend.py for what has been tested."""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn, ops


class AdamWUpdate(nn.Cell):
    """One fused operator, which has no bias correction."""

    def __init__(self, beta1: float, beta2: float):
        super().__init__()
        self.beta1, self.beta2 = beta1, beta2
        self.update = ops.AdamWeightDecay()

    def construct(
        self,
        weight: Parameter,
        m: Parameter,
        v: Parameter,
        rate: Tensor,
        eps: Tensor,
        decay: Tensor | None,
        gradient: Tensor,
    ) -> Tensor:
        decay = 0.0 if decay is None else decay
        return self.update(weight, m, v, rate, self.beta1, self.beta2, eps, decay, gradient)
