"""Cross-entropy on a CPU.

Shape suffixes: K positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops


class CrossEntropy(nn.Cell):
    """The weighted sum of −log p(target) over some positions, with its gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(-1)
        self.product, self.product_at = ops.MatMul(), ops.MatMul(transpose_a=True)
        self.product_bt, self.ones_like = ops.MatMul(transpose_b=True), ops.OnesLike()
        self.scatter_add = ops.TensorScatterElements(axis=1, reduction="add")

    def construct(
        self, hidden_KC: Tensor, head_VC: Tensor, targets_K: Tensor, weights_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (float32), its gradients by the hidden states, and by the head in float32."""
        targets_K1, weights_K1 = targets_K.reshape(-1, 1), weights_K.reshape(-1, 1)
        log_p = self.log_softmax(self.product_bt(hidden_KC, head_VC).astype(ms.float32))
        loss = -(ops.gather_elements(log_p, 1, targets_K1) * weights_K1).sum()
        # The difference p − 1 is taken in float32, because p is close to 1 for a good prediction.
        minus_ones = -self.ones_like(weights_K1)
        error_KV = self.add_elements(ops.exp(log_p), targets_K1, minus_ones).astype(hidden_KC.dtype)
        weights = self.factors(weights_K1, hidden_KC.shape[1]).astype(hidden_KC.dtype)
        head_gradient = self.product_at(error_KV, hidden_KC * weights).astype(ms.float32)
        return loss, self.product(error_KV, head_VC) * weights, head_gradient

    def add_elements(self, x_KV: Tensor, indices_K1: Tensor, values_K1: Tensor) -> Tensor:
        """Return x with a value added to one element of each row."""
        return self.scatter_add(x_KV, indices_K1, values_K1)

    def factors(self, weights_K1: Tensor, size: int) -> Tensor:
        """Return weights of rows as factors of `size` columns."""
        return ops.tile(weights_K1, (1, size))


def split(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Parts of `size` elements along the first axis; the last may be smaller."""
    return ops.split(x, size)
