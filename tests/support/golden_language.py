"""The golden decoders with random weights, and what upstream computed from them; see golden/PROVENANCE.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage import LanguageModel, SamplingOptions
from lm_stage.inference.visual_sequence import VisualRequest
from shared.tokens.grid_formats import EMU35_IMAGE, IMAGE, GridFormat
from tests.support.shared_caches import SharedCaches

TOP_50 = SamplingOptions(top_k=50)


@dataclass(frozen=True)
class GoldenLanguageModel:
    """`prompts` and `negative` are token ids up to IMG; `arrays` holds logits_i and tokens_i of prompt i."""

    model: LanguageModel
    prompts: list[list[int]]
    negative: list[int]
    height: int
    width: int
    guidance_scale: float
    arrays: dict[str, np.ndarray]
    grid_format: GridFormat

    @classmethod
    def load(cls, directory: Path) -> GoldenLanguageModel:
        expected = json.loads((directory / "expected.json").read_text())
        with np.load(directory / "expected.npz") as file:
            arrays = {name: file[name] for name in file.files}
        assert arrays["tokens_0"].size, "the golden corpus is empty"
        model = LanguageModel.from_pretrained(directory, layout=expected["layout"])
        model.backend = SharedCaches(model.backend)
        sizes = {name: expected[name] for name in ("height", "width", "guidance_scale")}
        if "size_and_img" not in expected:
            return cls(model, expected["prompts"], expected["negative"], arrays=arrays, grid_format=IMAGE, **sizes)
        prompts = [[*ids, *expected["size_and_img"]] for ids in (*expected["prompts"], expected["unconditional"])]
        return cls(model, prompts[:-1], prompts[-1], arrays=arrays, grid_format=EMU35_IMAGE, **sizes)

    def request(self, **changes: Any) -> VisualRequest:
        """Return a request for an image of 3 × 4 codes for the first prompt."""
        settings: dict[str, Any] = {"key": "key", "prompt_ids": self.prompts[0], "negative_ids": self.negative}
        settings["grid_format"] = self.grid_format
        return VisualRequest(**{**settings, "height": 3, "width": 4, "seed": 0, **changes})

    def generate(
        self,
        prompts: list[list[int]],
        sampling: SamplingOptions = TOP_50,
        guidance_scale: float = 3.0,
        batch_size: int = 16,
        window: int = 1,
        **changes: Any,
    ) -> np.ndarray:
        """Return the codes (B, T, H, W) of prompts of token ids."""
        requests = [self.request(key=str(index), prompt_ids=ids, **changes) for index, ids in enumerate(prompts)]
        return np.array(self.model.generate_codes(requests, sampling, guidance_scale, batch_size, window))
