"""Cross-entropy and look-up in tables on Ascend. See ascend.py for what has been tested.

Shape suffixes: K positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from mindspore import Tensor, ops
from mindspore.ops.auto_generate import ScatterAddExt, SplitTensor

from lm_stage.model.kernels import cpu_loss

scatter_add, split_tensor = ScatterAddExt(), SplitTensor()


def look_up(table_VC: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table; the gradient is `EmbeddingDenseBackward`."""
    return ops.embedding(ids, table_VC)


def split(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Parts of `size` elements along the first axis; the last may be smaller."""
    return split_tensor(x, size, 0)


class CrossEntropy(cpu_loss.CrossEntropy):
    """The same, with an aclnn operator in place of `TensorScatterElements` and with broadcasting."""

    def add_elements(self, x_KV: Tensor, indices_K1: Tensor, values_K1: Tensor) -> Tensor:
        return scatter_add(x_KV, 1, indices_K1, values_K1)

    def factors(self, weights_K1: Tensor, size: int) -> Tensor:
        return weights_K1
