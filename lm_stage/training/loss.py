"""Cross-entropy over the vocabulary in chunks, so that the logits of all positions never exist at once.

Logits and their gradients are computed chunk by chunk in the forward pass, which keeps only the gradients.

Shape suffixes: K supervised positions, C hidden size, V vocabulary.
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
        self.split = kernels.split
        self.zeros_like = ops.ZerosLike()

    def construct(
        self, hidden_KC: Tensor, head_VC: Tensor, targets_K: Tensor, weights_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (float32), and its gradients by the hidden states and by the head."""
        head = head_VC.astype(hidden_KC.dtype)
        hidden, targets = self.split(hidden_KC, self.chunk), self.split(targets_K, self.chunk)
        weights = self.split(weights_K, self.chunk)
        loss: Any = 0.0
        head_gradient: Any = 0.0
        hidden_gradients: tuple[Tensor, ...] = ()
        for index in range(len(targets)):  # `zip` does not compile in a gradient
            chunk = self.cross_entropy(hidden[index], head, targets[index], weights[index])
            loss = loss + chunk[0]
            hidden_gradients += (chunk[1],)
            head_gradient = head_gradient + chunk[2]
        return loss, ops.concat(hidden_gradients, 0), head_gradient

    def bprop(
        self, hidden_KC: Tensor, head_VC: Tensor, targets_K: Tensor, weights_K: Tensor, out: tuple, dout: tuple
    ) -> tuple[Tensor, ...]:
        """Return the gradients of the inputs from those that `construct` computed."""
        _, hidden_gradient_KC, head_gradient = out
        scale = dout[0]  # float32: may be too small for half precision
        hidden_gradient = (hidden_gradient_KC.astype(ms.float32) * scale).astype(hidden_KC.dtype)
        head_gradient = (head_gradient * scale).astype(head_VC.dtype)
        return hidden_gradient, head_gradient, self.zeros_like(targets_K), self.zeros_like(weights_K)
