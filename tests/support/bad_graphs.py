"""A hand-made graph that has no kernels on Ascend: an operator without one, and a type that a kernel does not take."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pipelines.dry_run.graphs import Call, Graph, GraphSizes
from shared.device import Device


class TwoMistakes(nn.Cell):
    """`Ger` takes no float64 there, and `Cholesky` has no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.cholesky = ops.Ger(), ops.operations.Cholesky()

    @ms.jit(jit_level="O0")
    def construct(self, x_N: Tensor) -> Tensor:
        return self.cholesky(self.outer(x_N, x_N))


def build(sizes: GraphSizes, device: Device) -> Call:
    cell, x_N = TwoMistakes(), Tensor(np.zeros(4, np.float64))
    return lambda: cell(x_N)


BAD_GRAPH = Graph("two mistakes", build, ("float64",))
