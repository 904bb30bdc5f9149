"""The settings of a fine-tuning run, and its result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm_stage.data.options import (
    SEQUENCE_CHECKS,
    Check,
    MixtureEntry,
    SequenceOptions,
    failed_checks,
    mixture_problems,
)
from lm_stage.model.options import SAVE_DTYPES
from shared.errors import UsageError

# Options that may differ on resume: locations, and what does not affect the weights.
RESUMABLE_OPTIONS = (
    "micro_batch_size",  # the global batch size is recorded instead
    "gradient_accumulation_steps",
    "datasets",  # their content is recorded instead
    "held_out",
    "run",
    "model",
    "save_every",
    "keep",
    "evaluate_every",
    "skip_damaged",
    "max_bad_steps",
    "save_dtype",
    "device",
    "kernels",
    "deterministic",  # recorded as the device applies it
    "zero",
    "recompute",
    "video_template",  # recorded with the datasets that contain videos
)
DEFAULT_WARMUP = 50  # also in shorter runs, which therefore do not reach the peak learning rate
DEFAULT_LORA_ALPHA = 16.0
DEFAULT_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Adapters of `rank`, whose product is scaled by alpha / rank, beside the matrices named in `targets`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SftOptions(SequenceOptions):
    """The settings of a fine-tuning run; all but RESUMABLE_OPTIONS must be the same on resume.

    A step of one process covers `gradient_accumulation_steps` micro-batches of `micro_batch_size` rows of `seq_length`
    tokens. Raises UsageError, with every problem, for settings that cannot work.
    """

    run: str
    held_out: tuple[str, ...] = ()
    steps: int = 1000
    micro_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    warmup: int | None = None
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    loss_scale: float | None = None
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ()
    zero: bool = False
    recompute: bool = False
    max_bad_steps: int = 5
    save_every: int = 200
    keep: int = 2
    evaluate_every: int = 200
    save_dtype: str = "float32"
    device: str = "auto"
    dtype: str | None = None
    kernels: str = "auto"
    deterministic: bool = True

    def __post_init__(self) -> None:
        problems = failed_checks(self, CHECKS) + mixture_problems(self.entries, self.weights)
        if self.held_out:
            problems += mixture_problems(self.held_out_entries, self.weights)
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def warmup_steps(self) -> int:
        return DEFAULT_WARMUP if self.warmup is None else self.warmup

    @property
    def lora(self) -> LoraOptions:
        alpha = DEFAULT_LORA_ALPHA if self.lora_alpha is None else self.lora_alpha
        return LoraOptions(self.lora_rank, alpha, self.lora_targets or DEFAULT_LORA_TARGETS)

    @property
    def held_out_entries(self) -> list[MixtureEntry]:
        return [MixtureEntry.parse(text) for text in self.held_out]

    def recorded(self, processes: int) -> dict[str, Any]:
        """Return the options that a resumed run must share, on any number of processes."""
        options = {name: value for name, value in asdict(self).items() if name not in RESUMABLE_OPTIONS}
        return {
            **options,
            "warmup": self.warmup_steps,
            "lora_alpha": self.lora.alpha,
            "lora_targets": self.lora.targets,
            "global_batch_size": self.micro_batch_size * self.gradient_accumulation_steps * processes,
        }


def _is_valid_warmup(options: SftOptions) -> bool:
    """Earlier versions accepted any warm-up; a run resumes with the one that it recorded."""
    from lm_stage.training.run_directory import is_started  # imports numpy, which `--help` must not

    longest = math.inf if is_started(Path(options.run)) else options.steps
    return 0 <= (options.warmup or 0) <= longest


CHECKS: tuple[Check[SftOptions], ...] = (
    *SEQUENCE_CHECKS,
    ("steps", "at least 1", lambda o: o.steps >= 1),
    ("micro_batch_size", "1 to 65536", lambda o: 1 <= o.micro_batch_size <= 65536),
    ("gradient_accumulation_steps", "1 to 1048576", lambda o: 1 <= o.gradient_accumulation_steps <= 1 << 20),
    ("learning_rate", "a number above 0", lambda o: 0 < o.learning_rate < math.inf),
    ("warmup", "at least 0 and at most the number of --steps", _is_valid_warmup),
    ("min_lr_ratio", "0 to 1", lambda o: 0 <= o.min_lr_ratio <= 1),
    ("weight_decay", "at least 0", lambda o: 0 <= o.weight_decay < math.inf),
    ("clip_norm", "at least 0", lambda o: 0 <= o.clip_norm < math.inf),
    ("loss_scale", "at least 1", lambda o: o.loss_scale is None or 1 <= o.loss_scale < math.inf),
    ("recompute", "off with --kernels plain: it saves nothing", lambda o: not (o.recompute and o.kernels == "plain")),
    ("freeze", "none with --lora-rank, which freezes all weights", lambda o: not (o.freeze and o.lora_rank)),
    ("lora_rank", "at least 0", lambda o: o.lora_rank >= 0),
    ("lora_rank", "0 with --zero: adapters need little memory", lambda o: not (o.lora_rank and o.zero)),
    ("lora_alpha", "a number above 0", lambda o: 0 < o.lora.alpha < math.inf),
    ("lora_alpha", "none without --lora-rank: all weights are trained", lambda o: o.lora_rank or o.lora_alpha is None),
    ("lora_targets", "none without --lora-rank: all weights are trained", lambda o: o.lora_rank or not o.lora_targets),
    ("max_bad_steps", "at least 1", lambda o: o.max_bad_steps >= 1),
    ("save_every", "at least 1", lambda o: o.save_every >= 1),
    ("keep", "at least 1", lambda o: o.keep >= 1),
    ("evaluate_every", "at least 1", lambda o: o.evaluate_every >= 1),
    ("save_dtype", f"one of {', '.join(SAVE_DTYPES)}", lambda o: o.save_dtype in SAVE_DTYPES),
)


@dataclass(frozen=True, slots=True)
class SftResult:
    """Where the model is, and totals over the whole run; `loss` is the mean over the last twentieth of the steps."""

    model: Path
    steps: int
    loss: float
    held_out_loss: float | None
    bad_steps: int
    too_long: int
    damaged: int
