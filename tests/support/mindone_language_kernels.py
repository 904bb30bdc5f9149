"""Runs mindone's decoder on CPU, with other operators in place of the mint kernels CPU lacks.

The substitution is for a process of its own: nothing is restored. `python -m tests.support.mindone_language_kernels
GOLDEN TIED DAMAGED OUTPUT.npz` writes, of the golden checkpoint: `logits` over the first sequence, the `codes` drawn
greedily for the first prompt, and the `steps` of a cache taken through `STEPS`; of the tied checkpoint
`tied_logits`; in `gap` why a position beyond a row's end was refused, and in `refusal` why the checkpoint DAMAGED was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.mint.nn.functional as mint_functional
import numpy as np
from mindspore import Tensor, mint, ops

from lm_stage import LanguageModel
from lm_stage.inference.sampling import SamplingOptions
from lm_stage.inference.visual_generator import VisualRequest
from lm_stage.model.config import DecoderConfig
from lm_stage.model.mindone import MindoneBackend
from shared.device import setup_device
from shared.errors import CheckpointError
from shared.tokens.layout import TokenLayout

# Positions of a cache's rows, step by step. Row 0 holds the first golden sequence and row 1 the second, which is sent
# back to its beginning at last; row 2 is never filled.
STEPS = np.array([(10, 20, 0), (11, 21, 0), (12, 21, 0), (13, 3, 0), (14, 0, 0)])


def arange(start: int, end: int | None = None, step: int = 1, *, dtype: ms.Type = ms.int64) -> Tensor:
    return Tensor(np.arange(start, end, step), dtype)


def embedding(indices: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return ops.gather(weight, indices, 0)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    assert not training, "the decoder must be in inference mode"
    return x


def substitute_kernels() -> None:
    """Replaces, for the rest of the process, what mindone's `Emu3ForCausalLM` uses and CPU does not have."""
    mint.arange = arange
    mint_functional.dropout = dropout
    ops.embedding = embedding


def golden_sequence(golden: Path, sample: int) -> np.ndarray:
    """int32 token ids of a golden prompt and its image."""
    prompt = json.loads((golden / "expected.json").read_text())["prompts"][sample]
    with np.load(golden / "expected.npz") as file:
        return np.array([*prompt, *file[f"tokens_{sample}"]], np.int32)


def load(checkpoint: Path) -> MindoneBackend:
    return MindoneBackend.load(checkpoint, DecoderConfig.from_directory(checkpoint), "float32")


def cached_steps(model: LanguageModel, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logits over the visual tokens (steps, rows, K) of STEPS."""
    cache = model.backend.cached(3, 100, model.layout.first_visual_token, model.layout.end_of_visual)
    cache.prefill(0, second[:30].tolist())  # an earlier occupant
    for row, sequence in enumerate((first, second)):
        cache.prefill(row, sequence[: STEPS[0, row]].tolist())
    return np.stack([cache.decode_step(np.array([first[a], second[b], 0]), np.array([a, b, c])) for a, b, c in STEPS])


def gap_refusal(backend: MindoneBackend) -> str:
    """The text of the ValueError for a step that would leave a gap; empty if it is taken."""
    cache = backend.cached(1, 100, 0, 4)
    cache.prefill(0, [1, 2, 3])
    try:
        cache.decode_step(np.array([4]), np.array([4]))
    except ValueError as error:
        return str(error)
    return ""


def generate(model: LanguageModel, golden: dict[str, Any]) -> np.ndarray:
    """Return the codes (1, H, W) of the first golden prompt."""
    size = golden["height"], golden["width"]
    request = VisualRequest("0", golden["prompts"][0], golden["negative"], *size, seed=0)
    return model.generate_codes([request], SamplingOptions(greedy=True), golden["guidance_scale"])[0]


def refusal_of(checkpoint: Path) -> str:
    """The text of the CheckpointError that loading raises; empty if it loads."""
    try:
        load(checkpoint)
    except CheckpointError as error:
        return str(error)
    return ""


def main(golden: Path, tied: Path, damaged: Path, outputs: Path) -> None:
    """See the module."""
    device = setup_device("cpu")
    substitute_kernels()
    expected = json.loads((golden / "expected.json").read_text())
    backend = load(golden)
    model = LanguageModel(backend, TokenLayout.from_mapping(expected["layout"]), device, golden)
    first, second = golden_sequence(golden, 0), golden_sequence(golden, 1)
    np.savez(
        outputs,
        logits=model.logits(first),
        steps=cached_steps(model, first, second),
        codes=generate(model, expected),
        tied_logits=load(tied).logits(first),
        gap=gap_refusal(backend),
        refusal=refusal_of(damaged),
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
