"""ZeRO (arXiv:1910.02054): what AdamW keeps, split over the processes that train together.

Every process holds the model in the type it computes in, and of each parameter one slice: its float32 weights, both
moments and the accumulated gradient. Gradients are summed into their slices as they come (stage 2); after a step the
slices of all processes make the parameters again. In half precision that is 2 bytes a parameter, 2 more for gradients
while they are computed, and 16 divided by the number of processes.

A slice is a part of the flattened parameter, so any shape on any number of processes will do, and files hold whole
tensors: a run may go on with or without it, on another number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from lm_stage.training.adamw import AdamW, Rule
from lm_stage.training.distributed import Group


class ZeroAdamW(AdamW):
    """AdamW whose gradients, moments and float32 weights are slices of one process.

    `start_from` gives it the weights; all processes must call its methods together.
    """

    def __init__(self, parameters: Sequence[Parameter], rule: Rule, group: Group, has_reduce_scatter: bool):
        sizes = [int(np.prod(p.shape)) for p in parameters]
        self.slice_sizes = [-(-size // group.size) for size in sizes]
        slices = [
            Parameter(ops.zeros((size,), ms.float32), name=f"weights.{p.name}", requires_grad=False)
            for p, size in zip(parameters, self.slice_sizes)
        ]
        super().__init__(parameters, rule, group, ParameterTuple(slices))
        self.sum_slices = SumSlices(group, has_reduce_scatter)
        self.gather = ops.AllGather() if group.size > 1 else ops.Identity()

    def start_from(self, weights: Callable[[str], np.ndarray]) -> None:
        """Takes this process's slices of the float32 weights, each by the name of its parameter."""
        for name, kept in zip(self.names, self.weights):
            kept.set_data(Tensor(self._slice_of(weights(name), kept.shape[0])))

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        whole = {name: self._slice_of(value, -(-value.size // self.group.size)) for name, value in state.items()}
        super().restore(whole)

    def add(self, gradients: tuple[Tensor, ...]) -> Tensor:
        done = 0.0
        for kept, new in zip(self.gradients, gradients):
            size = kept.shape[0]
            done = ops.assign_add(kept, self.sum_slices(_padded(new.astype(ms.float32), size * self.group.size)))
        return done

    def reduce(self) -> None:
        """They are summed already."""

    def sum_of_squares(self) -> float:
        return float(self.group.sum(super().sum_of_squares())[0])

    def step(self, number: int, learning_rate: float, scale: float) -> None:
        super().step(number, learning_rate, scale)
        self._publish()

    @ms.jit(jit_level="O0")
    def _publish(self) -> Tensor:
        """Makes the parameters of the slices of all processes."""
        done = 0.0
        for index, p in enumerate(self.parameters_):
            whole = self.gather(self.weights[index])[: p.size].reshape(p.shape)
            done = ops.assign(p, whole.astype(p.dtype))
        return done

    def _whole(self, slices: ParameterTuple) -> Iterator[tuple[str, np.ndarray]]:
        for name, p, kept in zip(self.names, self.parameters_, slices):
            yield name, self.gather(kept).asnumpy()[: p.size].reshape(p.shape)

    def _slice_of(self, whole: np.ndarray, size: int) -> np.ndarray:
        flat = np.zeros(size * self.group.size, np.float32)
        flat[: whole.size] = whole.reshape(-1)
        return flat[self.group.rank * size :][:size]


class SumSlices(nn.Cell):
    """This process's slice of the sum of a vector over all processes.

    The operator is not there on CPU: there all of the sum is made, and a slice of it taken.
    """

    def __init__(self, group: Group, has_reduce_scatter: bool):
        super().__init__()
        self.group, self.has_reduce_scatter = group, has_reduce_scatter
        self.sum: Any = ops.Identity()
        if group.size > 1:
            self.sum = ops.ReduceScatter() if has_reduce_scatter else ops.AllReduce()
        self.slice = ops.Slice()

    def construct(self, x: Tensor) -> Tensor:
        if self.has_reduce_scatter:
            return self.sum(x)
        size = x.shape[0] // self.group.size
        return self.slice(self.sum(x), (self.group.rank * size,), (size,))


def _padded(x: Tensor, size: int) -> Tensor:
    """Flattened, with zeros at its end up to a size."""
    flat = x.reshape(-1)
    missing = size - flat.shape[0]
    return flat if missing == 0 else ops.concat((flat, ops.zeros((missing,), flat.dtype)))
