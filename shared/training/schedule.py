"""The learning-rate schedule of both training jobs: linear warm-up, then cosine decay (arXiv:1608.03983)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CosineSchedule:
    """Decays from `peak` to `min_ratio · peak` between two steps, multiplied by a linear warm-up.

    The first `warmup` steps rise to the full rate. The decay begins at step `decay_from` and reaches its end at step
    `decay_to`. Steps count from 0.
    """

    peak: float
    min_ratio: float
    warmup: int
    decay_from: int
    decay_to: int

    def learning_rate(self, step: int) -> float:
        progress = (step - self.decay_from) / max(1, self.decay_to - self.decay_from)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        rate = self.peak * (self.min_ratio + (1 - self.min_ratio) * cosine)
        return rate * (step + 1) / self.warmup if step < self.warmup else rate
