"""Cross-entropy over the vocabulary in chunks, so that the logits of all positions never exist at once.

Logits and their gradient are taken chunk by chunk in one forward; what is handed to the framework is a sum whose
gradient is the one just found.

Shape suffixes: M positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from lm_stage.model import project


class ChunkedCrossEntropy(nn.Cell):
    """Weighted sum of −log p(target), `chunk` positions at a time."""

    def __init__(self, vocab_size: int, chunk: int):
        super().__init__()
        self.V, self.chunk = vocab_size, chunk
        self.log_softmax = ops.LogSoftmax(-1)
        self.product = ops.MatMul()
        self.product_transposed = ops.MatMul(transpose_a=True)

    def construct(
        self, hidden_MC: Tensor, head_VC: Tensor, targets_M: Tensor, weights_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A scalar to differentiate, and the loss itself (float32), which carries no gradient.

        M is a multiple of the chunk.
        """
        hidden, head = ops.stop_gradient(hidden_MC), ops.stop_gradient(head_VC.astype(hidden_MC.dtype))
        C = hidden.shape[1]
        loss: Any = 0.0
        head_gradient: Any = 0.0
        hidden_gradients: tuple[Tensor, ...] = ()
        for begin in range(0, hidden.shape[0], self.chunk):
            h, targets = hidden[begin : begin + self.chunk], targets_M[begin : begin + self.chunk]
            weights = weights_M[begin : begin + self.chunk]
            log_p = self.log_softmax(project(h, head).astype(ms.float32))
            loss = loss - (ops.gather_elements(log_p, 1, targets.reshape(-1, 1)).reshape(-1) * weights).sum()
            p, weights_MC = ops.exp(log_p).astype(h.dtype), ops.tile(weights.reshape(-1, 1), (1, C)).astype(h.dtype)
            hidden_gradients += ((self.product(p, head) - ops.gather(head, targets, 0)) * weights_MC,)
            weighted = h * weights_MC
            at_targets = ops.unsorted_segment_sum(weighted, targets, self.V)
            head_gradient = head_gradient + (self.product_transposed(p, weighted) - at_targets)
        hidden_gradient = ops.stop_gradient(ops.concat(hidden_gradients, 0))
        head_gradient = ops.stop_gradient(head_gradient.astype(head_VC.dtype))
        to_differentiate = (hidden_gradient * hidden_MC).astype(ms.float32).sum() + (head_gradient * head_VC).sum()
        return to_differentiate, ops.stop_gradient(loss)
