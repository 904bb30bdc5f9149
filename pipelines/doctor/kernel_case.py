"""One kernel with inputs of the width of the published models, and what it computes from them.

The reference is the same case with the kernels for CPU, in float32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_stage.model.config import DecoderConfig
from pipelines.doctor.tolerances import relative_error
from vq_stage.model.emu3_config import Emu3Config

MAX_NUMBERS = 200_000  # of one result that are compared; larger ones are thinned out
Kernels = Any  # a module of kernels of either stage


@dataclass(frozen=True, slots=True)
class Sizes:
    """The width of the models, and how much is computed: a vocabulary, tokens, and a picture by its side."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    length: int
    channels: int
    attention_channels: int
    codebook: int
    side: int


def published_widths() -> Sizes:
    """Return the width of the published models, with little to compute."""
    decoder, tokenizer = DecoderConfig(), Emu3Config()
    return Sizes(
        hidden=decoder.hidden_size,
        heads=decoder.num_attention_heads,
        kv_heads=decoder.num_key_value_heads,
        head_size=decoder.head_dim,
        intermediate=decoder.intermediate_size,
        vocabulary=8192,
        length=64,
        channels=tokenizer.base_channels,
        attention_channels=tokenizer.base_channels * tokenizer.channel_multiplier[-1],
        codebook=tokenizer.codebook_size,
        side=32,
    )


class Inputs:
    """Random inputs as tensors, the same in every process; `half` rounds them to the number type of the case."""

    def __init__(self, dtype: Any):
        self.dtype = dtype
        self.random = np.random.Generator(np.random.PCG64(4096))

    def full(self, *shape: int, scale: float = 1.0) -> Any:
        """Return a normal float32 tensor."""
        import mindspore as ms

        return ms.Tensor((self.random.standard_normal(shape) * scale).astype(np.float32))

    def half(self, *shape: int, scale: float = 1.0) -> Any:
        """Return a normal tensor of the number type."""
        return self.full(*shape, scale=scale).astype(self.dtype)

    def ids(self, end: int, *shape: int) -> Any:
        """Return int32 integers below `end`."""
        import mindspore as ms

        return ms.Tensor(self.random.integers(0, end, shape).astype(np.int32))


@dataclass(frozen=True, slots=True)
class Computation:
    """A function of tensors, the tensors, and the positions of those by which its first result is differentiated.

    `updated` are parameters that the function changes; if there are any, they are the results.
    """

    function: Callable[..., Any]
    tensors: Sequence[Any]
    differentiated: tuple[int, ...] = ()
    updated: Sequence[Any] = ()

    def run(self) -> list[np.ndarray]:
        """Return the results and the gradients, compiled as in the models, with their numbers thinned out."""
        import mindspore as ms

        function, float32 = self.function, ms.float32
        found = _listed(ms.jit(function, jit_level="O0")(*self.tensors))
        found = list(self.updated) or found
        if self.differentiated:
            # A sum of squares would not do: its gradient through a norm is rounding errors.
            factors = np.random.Generator(np.random.PCG64(1)).standard_normal(found[0].shape)

            def projected(factors: Any, *tensors: Any) -> Any:
                return (function(*tensors).astype(float32) * factors).sum()

            gradient = ms.grad(projected, tuple(position + 1 for position in self.differentiated))
            found += _listed(ms.jit(gradient, jit_level="O0")(ms.Tensor(factors, float32), *self.tensors))
        return [_thinned(tensor) for tensor in found]


Case = Callable[[Kernels, Inputs, Sizes], Computation]


def _listed(results: Any) -> list[Any]:
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _thinned(tensor: Any) -> np.ndarray:
    import mindspore as ms

    numbers = tensor if tensor.dtype in (ms.int32, ms.int64) else tensor.astype(ms.float32)
    flat = numbers.asnumpy().reshape(-1)
    return flat[:: (flat.size // MAX_NUMBERS) | 1]


def case_error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Return the largest error of all results: relative, and for integers the share of unequal ones."""
    if len(found) != len(wanted):
        return float("inf")
    return max(
        float((one != other).mean()) if one.dtype.kind == "i" else relative_error(one, other)
        for one, other in zip(found, wanted)
    )
