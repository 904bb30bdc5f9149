"""The settings of a dry run."""

from __future__ import annotations

from dataclasses import dataclass

from shared.device import DTYPES, KERNELS
from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class DryRunOptions:
    """`dtype` is the number type of the language model; `cards` are the numbers of NPUs to simulate training on.

    Raises UsageError for values that cannot work.
    """

    dtype: str = "bfloat16"
    kernels: str = "auto"
    cards: tuple[int, ...] = (1, 4, 8, 16)

    def __post_init__(self) -> None:
        problems = []
        if self.dtype not in DTYPES:
            problems.append(f"--dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.kernels not in KERNELS:
            problems.append(f"--kernels: expected one of {', '.join(KERNELS)}, got {self.kernels!r}")
        if not all(1 <= cards <= 1024 for cards in self.cards):
            problems.append(f"--cards: expected numbers from 1 to 1024, got {', '.join(map(str, self.cards))}")
        if problems:
            raise UsageError("; ".join(problems))
