"""The embedded model, and the settings of `emu3 init-lm`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "emu3-tiny"


@dataclass(frozen=True, slots=True)
class NewModelOptions:
    """The shape of the model; the codebook is that of the dataset."""

    dataset: str
    out: str
    text_ids: int = 2000
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    positions: int = 1024
    tied: bool = True
    seed: int = 0
