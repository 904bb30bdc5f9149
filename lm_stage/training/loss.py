"""Cross-entropy over the vocabulary in chunks, so that the logits of all positions never exist at once.

Logits and their gradients are computed chunk by chunk in the forward pass, which keeps only the gradients.

Shape suffixes: M positions, K supervised positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from lm_stage.model.kernels.cpu import linear


class ChunkedCrossEntropy(nn.Cell):
    """The weighted sum of −log p(target) over some positions, `chunk` of them at a time."""

    def __init__(self, chunk: int):
        super().__init__()
        self.chunk = chunk
        self.log_softmax = ops.LogSoftmax(-1)
        self.product, self.product_at = ops.MatMul(), ops.MatMul(transpose_a=True)
        self.sum_at, self.zeros_like = ops.UnsortedSegmentSum(), ops.ZerosLike()

    def construct(
        self, hidden_MC: Tensor, head_VC: Tensor, indices_K: Tensor, targets_K: Tensor, weights_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (float32), and its gradients by the hidden states at `indices_K` and by the head."""
        head = head_VC.astype(hidden_MC.dtype)
        V, C = head.shape
        K = indices_K.shape[0]
        loss: Any = 0.0
        head_gradient: Any = 0.0
        hidden_gradients: tuple[Tensor, ...] = ()
        for begin in range(0, K, self.chunk):
            end = min(begin + self.chunk, K)
            targets, weights = targets_K[begin:end], weights_K[begin:end].reshape(-1, 1)
            h = ops.gather(hidden_MC, indices_K[begin:end], 0)
            log_p = self.log_softmax(linear(h, head).astype(ms.float32))
            loss = loss - (ops.gather_elements(log_p, 1, targets.reshape(-1, 1)) * weights).sum()
            # The difference is taken in float32, because p is close to 1 for a good prediction.
            error = (ops.exp(log_p) - ops.one_hot(targets, V)).astype(h.dtype)
            weights_KC = ops.tile(weights, (1, C)).astype(h.dtype)
            hidden_gradients += (self.product(error, head) * weights_KC,)
            head_gradient = head_gradient + self.product_at(error, h * weights_KC).astype(ms.float32)
        return loss, ops.concat(hidden_gradients, 0), head_gradient

    def bprop(
        self,
        hidden_MC: Tensor,
        head_VC: Tensor,
        indices_K: Tensor,
        targets_K: Tensor,
        weights_K: Tensor,
        out: tuple,
        dout: tuple,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of the inputs from those that `construct` computed."""
        _, hidden_gradient_KC, head_gradient = out
        scale = dout[0]  # float32: may be too small for half precision
        scaled_KC = (hidden_gradient_KC.astype(ms.float32) * scale).astype(hidden_MC.dtype)
        hidden_gradient = self.sum_at(scaled_KC, indices_K, hidden_MC.shape[0])
        head_gradient = (head_gradient * scale).astype(head_VC.dtype)
        no_gradient = self.zeros_like(indices_K), self.zeros_like(targets_K), self.zeros_like(weights_K)
        return hidden_gradient, head_gradient, *no_gradient
