"""Cross-entropy over the vocabulary in chunks, so that the logits of all positions never exist at once.

Logits and their gradients are computed chunk by chunk in the forward pass, which keeps only the gradients.

Shape suffixes: M positions, K supervised positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from lm_stage.model.kernels import Kernels


class ChunkedCrossEntropy(nn.Cell):
    """The weighted sum of −log p(target) over some positions, `chunk` of them at a time."""

    def __init__(self, chunk: int, kernels: Kernels):
        super().__init__()
        self.chunk = chunk
        self.cross_entropy = kernels.CrossEntropy()
        self.look_up, self.sum_rows, self.split = kernels.look_up, kernels.sum_rows, kernels.split
        self.zeros_like = ops.ZerosLike()

    def construct(
        self, hidden_MC: Tensor, head_VC: Tensor, indices_K: Tensor, targets_K: Tensor, weights_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (float32), and its gradients by the hidden states at `indices_K` and by the head."""
        head = head_VC.astype(hidden_MC.dtype)
        indices, targets = self.split(indices_K, self.chunk), self.split(targets_K, self.chunk)
        weights = self.split(weights_K, self.chunk)
        loss: Any = 0.0
        head_gradient: Any = 0.0
        hidden_gradients: tuple[Tensor, ...] = ()
        for index in range(len(indices)):  # `zip` does not compile in a gradient
            hidden_KC = self.look_up(hidden_MC, indices[index])
            chunk = self.cross_entropy(hidden_KC, head, targets[index], weights[index])
            loss = loss + chunk[0]
            hidden_gradients += (chunk[1],)
            head_gradient = head_gradient + chunk[2]
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
        hidden_gradient = self.sum_rows(scaled_KC, indices_K, hidden_MC.shape[0])
        head_gradient = (head_gradient * scale).astype(head_VC.dtype)
        no_gradient = self.zeros_like(indices_K), self.zeros_like(targets_K), self.zeros_like(weights_K)
        return hidden_gradient, head_gradient, *no_gradient
