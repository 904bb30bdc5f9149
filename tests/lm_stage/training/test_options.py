"""Settings of a fine-tuning run: what is refused, and what a run records."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from lm_stage.training.options import CHECKS, RESUMABLE_OPTIONS, SftOptions
from shared.errors import UsageError


def options(**changes: Any) -> SftOptions:
    return SftOptions(**{"datasets": ("codes",), "run": "run", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps: expected at least 1, got 0"),
        ({"seq_length": 0}, "--seq-length: expected at least 1, got 0"),
        ({"micro_batch_size": 0}, "--micro-batch-size: expected 1 to 65536, got 0"),
        ({"gradient_accumulation_steps": -1}, "--gradient-accumulation-steps: expected 1 to 1048576, got -1"),
        ({"learning_rate": math.inf}, "--learning-rate: expected a number above 0, got inf"),
        ({"warmup": -1}, "--warmup: expected at least 0 and .*, got -1"),
        ({"warmup": 11, "steps": 10}, "--warmup: expected .* at most the number of --steps, got 11"),
        ({"lora_alpha": 8.0}, "--lora-alpha: expected none without --lora-rank: .*, got 8.0"),
        ({"lora_targets": ("q_proj",)}, "--lora-targets: expected none without --lora-rank: .*, got q_proj"),
        ({"loss_scale": math.inf}, "--loss-scale: expected at least 1, got inf"),
        ({"learning_rate": math.nan}, "--learning-rate: expected a number above 0, got nan"),
        ({"min_lr_ratio": 1.5}, "--min-lr-ratio: expected 0 to 1, got 1.5"),
        ({"weight_decay": math.nan}, "--weight-decay: expected at least 0, got nan"),
        ({"clip_norm": -0.5}, "--clip-norm: expected at least 0, got -0.5"),
        ({"loss_scale": 0.5}, "--loss-scale: expected at least 1, got 0.5"),
        ({"loss": "all"}, "--loss: expected one of after_prompt, visual, text, got all"),
        ({"visual_weight": math.nan}, "--visual-weight: expected at least 0, got nan"),
        ({"video_template": "emu3"}, "--video-template: expected one of univla, rows, got emu3"),
        ({"caption_dropout": 2.0}, "--caption-dropout: expected 0 to 1, got 2.0"),
        ({"seed": -1}, "--seed: expected at least 0, got -1"),
        ({"lora_rank": 2, "freeze": ("mlp", "norm")}, "--freeze: expected none with --lora-rank, .* got mlp norm"),
        ({"lora_rank": -1}, "--lora-rank: expected at least 0, got -1"),
        ({"lora_rank": 2, "zero": True}, "--lora-rank: expected 0 with --zero: .*, got 2"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "--lora-alpha: expected a number above 0, got 0.0"),
        ({"recompute": True, "kernels": "plain"}, "--recompute: expected off with --kernels plain: .*, got True"),
        ({"max_bad_steps": 0}, "--max-bad-steps: expected at least 1, got 0"),
        ({"save_every": 0}, "--save-every: expected at least 1, got 0"),
        ({"keep": 0}, "--keep: expected at least 1, got 0"),
        ({"evaluate_every": 0}, "--evaluate-every: expected at least 1, got 0"),
        ({"save_dtype": "int8"}, "--save-dtype: expected one of float32, float16, bfloat16, got int8"),
        ({"datasets": ()}, "DATASETS: expected at least one, got none"),
        ({"loss": "text"}, "codes: task image has no codes to learn with --loss text"),
        ({"held_out": ("t.jsonl,task=text",), "loss": "visual"}, "t.jsonl: task text has no text to learn"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**changes)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(UsageError, match=r"--steps: expected .*; --keep: expected "):
        options(steps=0, keep=0)


def test_every_check_and_every_resumable_option_names_an_option() -> None:
    names = {field.name for field in fields(SftOptions)}
    assert {name for name, _, _ in CHECKS} | set(RESUMABLE_OPTIONS) <= names


def test_the_record_holds_the_global_batch_size_instead_of_its_factors() -> None:
    recorded = options(micro_batch_size=2, gradient_accumulation_steps=3).recorded(processes=4)
    assert recorded["global_batch_size"] == 24
    assert not set(recorded) & set(RESUMABLE_OPTIONS)
    assert recorded == options(micro_batch_size=24, video_template="rows", zero=True).recorded(processes=1)


def test_defaults_that_depend_on_other_options_are_recorded_as_before() -> None:
    recorded = options(steps=10).recorded(processes=1)
    assert (recorded["warmup"], recorded["lora_alpha"]) == (50, 16.0)
    assert recorded["lora_targets"] == ("q_proj", "k_proj", "v_proj", "o_proj")
