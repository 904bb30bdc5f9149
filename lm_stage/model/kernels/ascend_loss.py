"""Cross-entropy on Ascend. See ascend.py for what has been tested.

Shape suffixes: K positions, V vocabulary.
"""

from __future__ import annotations

from mindspore import Tensor
from mindspore.ops.auto_generate import ScatterAddExt

from lm_stage.model.kernels import cpu_loss

scatter_add = ScatterAddExt()


class CrossEntropy(cpu_loss.CrossEntropy):
    """The same, with an aclnn operator in place of `TensorScatterElements` and with broadcasting."""

    def add_elements(self, x_KV: Tensor, indices_K1: Tensor, values_K1: Tensor) -> Tensor:
        return scatter_add(x_KV, 1, indices_K1, values_K1)

    def factors(self, weights_K1: Tensor, size: int) -> Tensor:
        return weights_K1
