"""Cross-entropy and look-up in tables on Ascend. See ascend.py for what has been tested.

Shape suffixes: K positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import EmbeddingDenseBackward, ScatterAddExt, SplitTensor

embedding_dense_backward, scatter_add, split_tensor = EmbeddingDenseBackward(), ScatterAddExt(), SplitTensor()


def look_up(table_VC: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table; the gradient is `EmbeddingDenseBackward`."""
    return ops.embedding(ids, table_VC)


def sum_rows(rows_KC: Tensor, indices_K: Tensor, count: int) -> Tensor:
    """Sum rows by their index: the gradient (count, C) of a table from that of the rows looked up in it."""
    return embedding_dense_backward(rows_KC, indices_K, count)


def split(x_K: Tensor, size: int) -> tuple[Tensor, ...]:
    """Parts of `size` elements; the last may be smaller."""
    return split_tensor(x_K, size, 0)


class CrossEntropy(nn.Cell):
    """The weighted sum of −log p(target) over some positions, with its gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(-1)
        self.product, self.product_at = ops.MatMul(), ops.MatMul(transpose_a=True)
        self.product_bt, self.ones_like = ops.MatMul(transpose_b=True), ops.OnesLike()

    def construct(
        self, hidden_KC: Tensor, head_VC: Tensor, targets_K: Tensor, weights_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (float32), its gradients by the hidden states, and by the head in float32."""
        targets_K1, weights_K1 = targets_K.reshape(-1, 1), weights_K.reshape(-1, 1)
        log_p = self.log_softmax(self.product_bt(hidden_KC, head_VC).astype(ms.float32))
        loss = -(ops.gather_elements(log_p, 1, targets_K1) * weights_K1).sum()
        # The difference p − 1 is taken in float32, because p is close to 1 for a good prediction.
        minus_ones = -self.ones_like(weights_K1)
        error_KV = scatter_add(ops.exp(log_p), 1, targets_K1, minus_ones).astype(hidden_KC.dtype)
        weights_K1 = weights_K1.astype(hidden_KC.dtype)
        head_gradient = self.product_at(error_KV, hidden_KC * weights_K1).astype(ms.float32)
        return loss, self.product(error_KV, head_VC) * weights_K1, head_gradient
