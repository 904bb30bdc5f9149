"""The embedded model, the types in which models are saved, and the settings of `emu3 init-lm`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lm_stage.text.prompting import FAMILIES
from shared.errors import UsageError

MAX_PARAMETERS = 4_000_000_000  # of a new model, which is made in memory
EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "emu3-tiny"
SAVE_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # by their names in safetensors


@dataclass(frozen=True, slots=True)
class NewModelOptions:
    """The shape of the model; the codebook is that of the dataset.

    `head_dim` is hidden_size / heads if it is not given. `prompting` is that of the family whose sequences the model
    is for: with emu35 the vocabulary has Emu3.5's control tokens.
    """

    dataset: str
    out: str
    text_ids: int = 2000
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int | None = None
    qk_norm: bool = False
    positions: int = 1024
    prompting: str = "emu3"
    tied: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        least = dict.fromkeys(("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "positions"), 1)
        problems = [
            f"--{name.replace('_', '-')}: expected at least {low}, got {getattr(self, name)}"
            for name, low in {**least, "text_ids": 256, "seed": 0}.items()
            if getattr(self, name) < low
        ]
        if self.head_dim is not None and (self.head_dim < 2 or self.head_dim % 2):
            problems.append(f"--head-dim: expected an even number from 2 up, got {self.head_dim}")
        if not problems and not self.head_dim and self.hidden_size % (2 * self.heads):
            problems.append(
                f"--hidden-size: expected an even multiple of --heads {self.heads}, got {self.hidden_size}; or give"
                " --head-dim"
            )
        if not problems and self.heads % self.kv_heads:
            problems.append(f"--heads: expected a multiple of --kv-heads {self.kv_heads}, got {self.heads}")
        if not problems and self._parameters() > MAX_PARAMETERS:
            problems.append(
                f"this model has {self._parameters():.1e} parameters, expected at most {MAX_PARAMETERS:.0e}"
            )
        if self.prompting not in FAMILIES:
            problems.append(f"--prompting: expected one of {', '.join(FAMILIES)}, got {self.prompting!r}")
        if problems:
            raise UsageError("; ".join(problems))

    def _parameters(self) -> int:
        """Return about how many weights the layers have."""
        head_dim = self.head_dim or self.hidden_size // self.heads
        attention = 2 * self.hidden_size * head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)
