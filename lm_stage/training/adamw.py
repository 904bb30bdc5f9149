"""AdamW over accumulated gradients (arXiv:1711.05101), with the bias correction that ready-made ones here lack.

`ops.AdamWeightDecay` has none; given a step's own learning rate, epsilon and decay, it is the published rule:

    p ← p − lr·λ·p − lr·m̂/(√v̂ + ε),   m̂ = m/c₁,  v̂ = v/c₂,  c₁ = 1 − β₁ᵗ,  c₂ = 1 − β₂ᵗ
      = p − lr′·(m/(√v + ε′) + λ′·p)    lr′ = lr·√c₂/c₁,  ε′ = ε·√c₂,  λ′ = λ·lr/lr′
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from lm_stage.training.distributed import Group


@dataclass(frozen=True, slots=True)
class Rule:
    """The constants of AdamW."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float


class AdamW(nn.Cell):
    """Moments and accumulated gradients of some parameters. Matrices decay, vectors (norms) do not.

    `weights` are the float32 tensors that a step moves: the parameters themselves, unless a subclass keeps others.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        rule: Rule,
        group: Group | None = None,
        weights: ParameterTuple | None = None,
    ):
        super().__init__()
        self.group = group or Group()
        self.all_reduce: Any = ops.AllReduce() if self.group.size > 1 else None
        self.names = [p.name for p in parameters]
        self.parameters_ = ParameterTuple(parameters)
        self.weights = self.parameters_ if weights is None else weights
        self.gradients = _zeros_like(self.weights, "gradient")
        self.m, self.v = _zeros_like(self.weights, "m"), _zeros_like(self.weights, "v")
        self.decays = tuple(len(p.shape) > 1 for p in parameters)
        self.rule = rule
        self.update = ops.AdamWeightDecay()

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Moments by name, one after the other."""
        for kind, kept in (("m", self.m), ("v", self.v)):
            for name, value in self._whole(kept):
                yield f"{kind}.{name}", value

    def whole_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Float32 weights by the name of their parameter."""
        return self._whole(self.weights)

    def _whole(self, kept: ParameterTuple) -> Iterator[tuple[str, np.ndarray]]:
        """Nothing but in the first process, which writes what all of them have."""
        if self.group.is_first:
            yield from ((name, p.asnumpy()) for name, p in zip(self.names, kept))

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Puts moments back. Raises KeyError if one is missing."""
        for kind, kept in (("m", self.m), ("v", self.v)):
            for name, p in zip(self.names, kept):
                p.set_data(Tensor(state[f"{kind}.{name}"]))

    def add(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Adds to the accumulated gradients; to be called within a compiled function."""
        done = 0.0
        for kept, new in zip(self.gradients, gradients):
            done = ops.assign_add(kept, new)
        return done

    def reduce(self) -> None:
        """Sums the accumulated gradients over all processes that train together."""
        if self.group.size > 1:
            self._reduce()

    @ms.jit(jit_level="O0")
    def _reduce(self) -> Tensor:
        done = 0.0
        for gradient in self.gradients:
            done = ops.assign(gradient, self.all_reduce(gradient))
        return done

    def norm(self) -> float:
        """Global norm of the accumulated gradients."""
        return math.sqrt(self.sum_of_squares())

    def sum_of_squares(self) -> float:
        return float(self._sum_of_squares().asnumpy())

    @ms.jit(jit_level="O0")
    def _sum_of_squares(self) -> Tensor:
        total = 0.0
        for gradient in self.gradients:
            total = total + ops.square(gradient).sum(-1).sum()  # by lines first: on CPU far faster than at once
        return total

    def step(self, number: int, learning_rate: float, scale: float) -> None:
        """Moves the parameters by the accumulated gradients times `scale`, and forgets the gradients.

        `number` counts from 1.
        """
        rule = self.rule
        c1, c2 = 1 - rule.beta1**number, 1 - rule.beta2**number
        rate = learning_rate * math.sqrt(c2) / c1
        decay = rule.weight_decay * c1 / math.sqrt(c2)
        values = (rate, rule.eps * math.sqrt(c2), decay, scale)
        self._apply(*(Tensor(value, ms.float32) for value in values))

    def clear(self) -> None:
        """Forgets the accumulated gradients."""
        self._clear()

    @ms.jit(jit_level="O0")
    def _apply(self, rate: Tensor, eps: Tensor, decay: Tensor, scale: Tensor) -> Tensor:
        done = 0.0
        for index in range(len(self.decays)):
            gradient = self.gradients[index]
            moved = self.update(
                self.weights[index],
                self.m[index],
                self.v[index],
                rate,
                self.rule.beta1,
                self.rule.beta2,
                eps,
                decay if self.decays[index] else 0.0,
                gradient * scale,
            )
            done = ops.depend(ops.assign(gradient, ops.zeros_like(gradient)), moved)
        return done

    @ms.jit(jit_level="O0")
    def _clear(self) -> Tensor:
        done = 0.0
        for gradient in self.gradients:
            done = ops.assign(gradient, ops.zeros_like(gradient))
        return done


def _zeros_like(parameters: Sequence[Parameter], prefix: str) -> ParameterTuple:
    return ParameterTuple(
        [Parameter(ops.zeros(p.shape, ms.float32), name=f"{prefix}.{p.name}", requires_grad=False) for p in parameters]
    )
