"""Settings of a fine-tuning run and what it returns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm_stage.data.mixture import Source
from lm_stage.data.sequences import LOSSES, LossWeights
from lm_stage.model.model_directory import EMBEDDED_MODEL
from shared.errors import UsageError
from shared.tokens.visual_tokens import VIDEO_FORMATS

# Settings that may differ on resume: places, and what does not touch the numbers.
FREE = (
    "micro_batch_size",
    "gradient_accumulation_steps",
    "datasets",
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
    "zero",
    "recompute",
    "video_template",  # recorded with the datasets that hold videos
)


@dataclass(frozen=True, slots=True)
class SftOptions:
    """Settings of a fine-tuning run; all but FREE must be the same on resume.

    A step sees `gradient_accumulation_steps` batches of `micro_batch_size` rows of `seq_length` tokens.
    """

    datasets: tuple[str, ...]
    run: str
    model: str = str(EMBEDDED_MODEL)
    held_out: tuple[str, ...] = ()
    steps: int = 1000
    seq_length: int = 1024
    micro_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    warmup: int = 50
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    clip_norm: float = 1.0
    loss_scale: float | None = None
    loss: str = "after_prompt"
    visual_weight: float = 1.0
    video_template: str = "univla"
    caption_dropout: float = 0.05
    seed: int = 0
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    zero: bool = False
    recompute: bool = False
    skip_damaged: bool = False
    max_bad_steps: int = 5
    save_every: int = 200
    keep: int = 2
    evaluate_every: int = 200
    save_dtype: str = "float32"
    device: str = "auto"
    dtype: str | None = None

    def __post_init__(self) -> None:
        problems = []
        whole = (
            "steps",
            "seq_length",
            "micro_batch_size",
            "gradient_accumulation_steps",
            "save_every",
            "keep",
            "evaluate_every",
            "max_bad_steps",
        )
        problems += [f"--{_flag(name)} must be at least 1" for name in whole if getattr(self, name) < 1]
        if self.loss not in LOSSES:
            problems.append(f"--loss {self.loss}: expected one of {', '.join(LOSSES)}")
        if not 0 <= self.caption_dropout <= 1:
            problems.append(f"--caption-dropout {self.caption_dropout}: expected 0 to 1")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.min_lr_ratio <= 1:
            problems.append("--learning-rate must be above 0, --min-lr-ratio 0 to 1")
        not_negative = ("weight_decay", "warmup", "clip_norm", "visual_weight")
        problems += [f"--{_flag(n)} must not be below 0" for n in not_negative if not 0 <= getattr(self, n) < math.inf]
        if self.loss_scale is not None and not self.loss_scale >= 1:
            problems.append(f"--loss-scale {self.loss_scale}: expected 1 or more")
        if self.save_dtype not in ("float32", "float16"):
            problems.append(f"--save-dtype {self.save_dtype}: expected float32 or float16")
        if self.lora_rank < 0 or not self.lora_alpha > 0 or (self.lora_rank and self.freeze):
            problems.append("--lora-rank must not be below 0, --lora-alpha above 0, and neither goes with --freeze")
        if self.lora_rank and self.zero:
            problems.append("--zero does not go with --lora-rank: what adapters need is small")
        if self.video_template not in VIDEO_FORMATS:
            problems.append(f"--video-template {self.video_template}: expected one of {', '.join(VIDEO_FORMATS)}")
        if self.seed < 0:
            problems.append(f"--seed {self.seed}: expected 0 or more")
        if not self.datasets:
            problems.append("expected at least one DATASET")
        for source in [*self.sources, *self.held_out_sources]:
            if not (self.weights.of_visual if source.is_drawn else self.weights.of_other):
                kind = "codes" if source.is_drawn else "text"
                problems.append(
                    f"{source.path}: task {source.task} has no {kind} to learn with --loss {self.loss} --visual-weight"
                    f" {self.visual_weight}; leave it out or take another --loss"
                )
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def weights(self) -> LossWeights:
        return LossWeights(self.loss, self.visual_weight)

    @property
    def sources(self) -> list[Source]:
        return [Source.parse(text) for text in self.datasets]

    @property
    def held_out_sources(self) -> list[Source]:
        return [Source.parse(text) for text in self.held_out]

    def recorded(self, processes: int) -> dict[str, Any]:
        """What a resumed run must share with the run that began, on however many processes."""
        kept = {name: value for name, value in asdict(self).items() if name not in FREE}
        return {**kept, "global_batch_size": self.micro_batch_size * self.gradient_accumulation_steps * processes}


def _flag(name: str) -> str:
    return name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class SftResult:
    """Where the model is, and what the run saw in all."""

    model: Path
    steps: int
    loss: float
    held_out_loss: float | None
    bad_steps: int
    too_long: int
    damaged: int
