"""ZeRO (arXiv:1910.02054): the state of AdamW split over the processes that train together.

Every process holds the model in its compute type and, of each parameter, one slice of the float32 weights, of both
moments and of the accumulated gradient. Gradients are summed into the slices as they are computed (stage 2); after a
step the slices of all processes are gathered into the parameters. In half precision this takes 2 bytes for each
parameter, 2 more for gradients while they are computed, and 16 divided by the number of processes.

A slice is a part of the flattened, padded parameter, so that any shape works on any number of processes. Files hold
whole tensors: a run can resume with or without ZeRO and on another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.optimizer import AdamW


class ZeroAdamW(AdamW):
    """AdamW whose gradients, moments and float32 weights are slices.

    `load_weights` must be called before the first step. All processes must call its methods together.
    """

    @property
    def is_split(self) -> bool:
        return self.group.size > 1

    def _create_weights(self) -> ParameterTuple:
        self.sum_slices = SumSlices(self.group)
        self.gather = ops.AllGather() if self.group.size > 1 else ops.Identity()
        return ParameterTuple(
            [
                Parameter(ops.zeros((self._slice_size(p.size),), ms.float32), f"weights.{p.name}", False)
                for p in self.parameters_
            ]
        )

    def load_weights(self, weights: Callable[[str], np.ndarray]) -> None:
        """Take this process's slices of the float32 weights, which `weights` returns by parameter name."""
        for name, own in zip(self.names, self.weights):
            ops.assign(own, Tensor(self._own_part(weights(name))))  # in place

    def _to_add(self, new: Tensor, accumulated: Parameter) -> Tensor:
        """Return this process's slice of the sum of a gradient over all processes."""
        return self.sum_slices(_flat_padded(new.astype(ms.float32), accumulated.shape[0] * self.group.size))

    def reduce(self) -> None:
        """Do nothing: `add` has summed them."""

    def sum_of_squares(self) -> float:
        return float(self.group.sum(super().sum_of_squares())[0])

    def step(self, number: int, learning_rate: float, scale: float) -> None:
        super().step(number, learning_rate, scale)
        self._publish()

    @ms.jit(jit_level="O0")
    def _publish(self) -> Tensor:
        """Set the parameters from the slices of all processes, which are rounded before they are sent."""
        done = 0.0
        for index, p in enumerate(self.parameters_):
            whole = _without_padding(self.gather(self.weights[index].astype(p.dtype)), p.size)
            done = ops.assign(p, whole.reshape(p.shape))
        return done

    def _read_whole(self, p: Parameter, own: Parameter) -> np.ndarray:
        return self.gather(own).asnumpy()[: p.size].reshape(p.shape)

    def _slice_size(self, size: int) -> int:
        return -(-size // self.group.size)

    def _own_part(self, whole: np.ndarray) -> np.ndarray:
        size = self._slice_size(whole.size)
        part = whole.reshape(-1)[self.group.rank * size :][:size]
        own = np.zeros(size, np.float32)
        own[: part.size] = part
        return own


class SumSlices(nn.Cell):
    """This process's slice of the sum of a vector over all processes.

    Where the device has no reduce-scatter (CPU), the whole sum is computed and a slice of it taken.
    """

    def __init__(self, group: ProcessGroup):
        super().__init__()
        self.group = group
        self.sum: Any = ops.Identity()
        if group.size > 1:
            self.sum = ops.ReduceScatter() if group.has_reduce_scatter else ops.AllReduce()
        self.slice = ops.Slice()

    def construct(self, x: Tensor) -> Tensor:
        if self.group.has_reduce_scatter:
            return self.sum(x)
        size = x.shape[0] // self.group.size
        return self.slice(self.sum(x), (self.group.rank * size,), (size,))


def _without_padding(whole: Tensor, size: int) -> Tensor:
    """Return the first `size` elements; a slice of all of them would be a kernel of its own."""
    return whole if whole.shape[0] == size else whole[:size]


def _flat_padded(x: Tensor, size: int) -> Tensor:
    """Flatten, and append zeros up to a size."""
    flat = x.reshape(-1)
    missing = size - flat.shape[0]
    return flat if missing == 0 else ops.concat((flat, ops.zeros((missing,), flat.dtype)))
