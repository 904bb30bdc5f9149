"""AdamW over accumulated gradients (arXiv:1711.05101), including Adam's bias correction.

Kernels update without bias correction. With a learning rate, epsilon and decay adjusted for each step they compute the
published rule:

    p ← p − lr·λ·p − lr·m̂/(√v̂ + ε),   m̂ = m/c₁,  v̂ = v/c₂,  c₁ = 1 − β₁ᵗ,  c₂ = 1 − β₂ᵗ
      = p − lr′·(m/(√v + ε′) + λ′·p)    lr′ = lr·√c₂/c₁,  ε′ = ε·√c₂,  λ′ = λ·lr/lr′
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from lm_stage.model.kernels import Kernels, cpu
from lm_stage.model.safetensors_writer import SavedTensor
from lm_stage.training.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class AdamWHyperparameters:
    """The constants of AdamW. `weight_decay` applies to matrices only, not to vectors such as norms."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6  # epsilon, added to the square root of the second moment
    weight_decay: float = 0.1


class AdamW(nn.Cell):
    """Updates parameters from accumulated gradients; keeps their moments.

    `weights` are the float32 tensors that a step updates: the parameters themselves, unless a subclass creates others.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        hyperparameters: AdamWHyperparameters,
        group: ProcessGroup | None = None,
        kernels: Kernels = cpu,
    ):
        super().__init__()
        self.group = group or ProcessGroup()
        self.all_reduce: Any = ops.AllReduce() if self.group.size > 1 else None
        self.names = [p.name for p in parameters]
        self.parameters_ = ParameterTuple(parameters)
        self.weights = self._create_weights()
        self.gradients = _zeros_like(self.weights, "gradient")
        self.m, self.v = _zeros_like(self.weights, "m"), _zeros_like(self.weights, "v")
        self.has_decay = tuple(len(p.shape) > 1 for p in parameters)
        self.hyperparameters = hyperparameters
        self.update = kernels.AdamWUpdate(hyperparameters.beta1, hyperparameters.beta2)

    @property
    def is_split(self) -> bool:
        """Whether each process holds a part of every tensor."""
        return False

    def _create_weights(self) -> ParameterTuple:
        return self.parameters_

    def state(self) -> dict[str, SavedTensor]:
        """Return the moments by name, each a whole tensor when it is read."""
        kinds = (("m", self.m), ("v", self.v))
        return {f"{kind}.{name}": one for kind, moments in kinds for name, one in self._whole_tensors(moments)}

    def whole_weights(self) -> dict[str, SavedTensor]:
        """Return the float32 weights by the name of the parameter, each a whole tensor when it is read."""
        return dict(self._whole_tensors(self.weights))

    def _whole_tensors(self, tensors: ParameterTuple) -> Iterator[tuple[str, SavedTensor]]:
        for name, p, own in zip(self.names, self.parameters_, tensors):
            yield name, SavedTensor("F32", p.shape, partial(self._read_whole, p, own), self.is_split)

    def _read_whole(self, p: Parameter, own: Parameter) -> np.ndarray:
        """Return the whole tensor of a parameter, of which `own` is what this process holds."""
        return own.asnumpy()

    def restore(self, read: Callable[[str], np.ndarray]) -> None:
        """Load the moments, which `read` returns by name, one at a time."""
        for kind, moments in (("m", self.m), ("v", self.v)):
            for name, p in zip(self.names, moments):
                own = self._own_part(read(f"{kind}.{name}"))
                if own.shape != p.shape:  # `assign` may raise in a later call
                    raise ValueError(f"{kind}.{name}: expected shape {p.shape}, got {own.shape}")
                ops.assign(p, Tensor(own))  # in place

    def _own_part(self, whole: np.ndarray) -> np.ndarray:
        """Return what this process holds of a tensor."""
        return whole

    def add(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Add to the accumulated gradients; to be called within a compiled function.

        The additions are executed in this order, the last parameter first, as the backward pass computes gradients:
        then each is freed as soon as it is added. The gradient of the embedding comes last.
        """
        done = 0.0
        for index in range(len(self.names) - 1, -1, -1):
            accumulated = self.gradients[index]
            done = ops.assign_add(accumulated, self._to_add(gradients[index], accumulated))
        return done

    def _to_add(self, new: Tensor, accumulated: Parameter) -> Tensor:
        return new

    def reduce(self) -> None:
        """Sum the accumulated gradients over all processes."""
        if self.group.size > 1:
            self._reduce()

    @ms.jit(jit_level="O0")
    def _reduce(self) -> Tensor:
        done = 0.0
        for gradient in self.gradients:
            done = ops.assign(gradient, self.all_reduce(gradient))
        return done

    def norm(self) -> float:
        """Return the global norm of the accumulated gradients."""
        return math.sqrt(self.sum_of_squares())

    def sum_of_squares(self) -> float:
        return float(self._sum_of_squares().asnumpy())

    @ms.jit(jit_level="O0")
    def _sum_of_squares(self) -> Tensor:
        total = 0.0
        for gradient in self.gradients:
            total = total + ops.square(gradient).sum(-1).sum()  # row by row first: on CPU far faster than all at once
        return total

    def step(self, number: int, learning_rate: float, scale: float) -> None:
        """Update the weights from the accumulated gradients times `scale`, and clear the gradients.

        `number` counts the steps from 1.
        """
        adam = self.hyperparameters
        c1, c2 = 1 - adam.beta1**number, 1 - adam.beta2**number
        rate = learning_rate * math.sqrt(c2) / c1
        decay = adam.weight_decay * c1 / math.sqrt(c2)
        values = (rate, adam.eps * math.sqrt(c2), decay, scale, 0.0)
        self._apply(*(Tensor(value, ms.float32) for value in values))

    @ms.jit(jit_level="O0")
    def _apply(self, rate: Tensor, eps: Tensor, decay: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        done = 0.0
        for index in range(len(self.has_decay)):
            gradient = self.gradients[index]
            updated = self.update(
                self.weights[index],
                self.m[index],
                self.v[index],
                rate,
                eps,
                decay if self.has_decay[index] else None,
                gradient * scale,
            )
            done = ops.depend(ops.assign(gradient, ops.broadcast_to(zero, gradient.shape)), updated)
        return done

    def clear(self) -> None:
        """Set the accumulated gradients to zero."""
        self._clear(Tensor(0.0, ms.float32))

    @ms.jit(jit_level="O0")
    def _clear(self, zero: Tensor) -> Tensor:
        # `zero` is an input because zeros that depend on nothing become constants, as large as the gradients.
        done = 0.0
        for gradient in self.gradients:
            done = ops.assign(gradient, ops.broadcast_to(zero, gradient.shape))
        return done


def _zeros_like(parameters: Sequence[Parameter], prefix: str) -> ParameterTuple:
    # By position: with keyword arguments, `Parameter` would copy each tensor to the host and back.
    return ParameterTuple([Parameter(ops.zeros(p.shape, ms.float32), f"{prefix}.{p.name}", False) for p in parameters])
