"""How each family of tokenizers is trained: its initial weights, its step, and what follows its codebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.families import TokenizerConfig
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.training.index_backpropagation import IndexBackpropagationStep, TrainedCodebook
from vq_stage.training.initialization import initialize_emu3, initialize_ibq
from vq_stage.training.moving_averages import CodebookEMA, MovingAverageStep
from vq_stage.training.step import TrainStep

Codebook = CodebookEMA | TrainedCodebook


@dataclass(frozen=True, slots=True)
class Method:
    """`initialize` sets all weights of a network by a seed; `codebook` takes a quantizer, a decay and a seed."""

    initialize: Callable[[Any, int], None]
    step: type[TrainStep]
    codebook: type[Codebook]


_METHODS = {
    Emu3Config: Method(initialize_emu3, MovingAverageStep, CodebookEMA),
    IbqConfig: Method(initialize_ibq, IndexBackpropagationStep, TrainedCodebook),
}


def method_of(config: TokenizerConfig) -> Method:
    """Return how tokenizers with a config of this class are trained."""
    return _METHODS[type(config)]
