"""Files of prompts or questions, and a small clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.generate.planner import PromptPlanner
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from shared.codec import EMU3, Codec
from shared.dataset.plan import Unit
from shared.dataset.plan_writer import PlanWriter

CLIP = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)


def write_entries(path: Path, entries: Sequence[Any]) -> Path:
    """Write JSON, or JSON lines if the suffix is `.jsonl`."""
    text = json.dumps(entries) if path.suffix == ".json" else "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_text(text)
    return path


def plan_prompts(
    prompts: Sequence[Prompt], renderer: PromptRenderer, positions: int, unit_rows: int, codec: Codec = EMU3
) -> list[Unit]:
    """Return the units of a new plan."""
    planner = PromptPlanner(renderer, positions, codec)
    with PlanWriter(unit_rows) as writer:
        for index, prompt in enumerate(prompts):
            writer.add(*planner.planned(planner.resolved(prompt), index))
        return list(writer.units())
