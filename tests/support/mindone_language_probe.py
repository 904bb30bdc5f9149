"""Runs mindone's decoder on CPU: `python -m tests.support.mindone_language_probe GOLDEN TIED DAMAGED SAVED OUTPUT`.

OUTPUT.npz receives, from the golden checkpoint: `logits` over the first sequence, the `codes` sampled greedily for the
first prompt, and the logits of a cache at each of `STEPS` in `steps`; from the tied checkpoint `tied_logits`; in `gap`
why a position beyond a row's end was refused, and in `refusal` why the checkpoint DAMAGED was refused. mindone itself
loads the models of SAVED, which are named for their classes: the logits of `IDS` are under these names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from lm_stage import LanguageModel
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.model.config import DecoderConfig
from lm_stage.model.mindone import MindoneBackend, MindoneCache
from shared.device import setup_device
from shared.tokens.layout import TokenLayout
from tests.support.mindone_kernels import refusal_of, substitute_kernels

# Positions of a cache's rows, step by step. Row 0 holds the first golden sequence and row 1 the second, which returns
# to its first tokens at the end; row 2 is never filled.
IDS = [3, 9, 20, 33, 7]
CLASSES = ("Emu3ForCausalLM", "Emu3ForConditionalGeneration")
STEPS = np.array([(10, 20, 0), (11, 21, 0), (12, 21, 0), (13, 3, 0), (14, 0, 0)])


def golden_sequence(golden: Path, sample: int) -> np.ndarray:
    """Return the int32 token ids of a golden prompt and its image."""
    prompt = json.loads((golden / "expected.json").read_text())["prompts"][sample]
    with np.load(golden / "expected.npz") as file:
        return np.array([*prompt, *file[f"tokens_{sample}"]], np.int32)


def load(checkpoint: Path) -> MindoneBackend:
    return MindoneBackend.from_pretrained(checkpoint, DecoderConfig.from_directory(checkpoint), "float32")


def step(cache: MindoneCache, token_ids: list[int], positions: list[int]) -> np.ndarray:
    """Return the logits (rows, K) of one step."""
    return cache.decode_step(np.array(token_ids)[:, None], np.array(positions)[:, None])[:, 0]


def cached_steps(model: LanguageModel, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the logits over the visual tokens (steps, rows, K) at STEPS."""
    cache = model.backend.cached(3, 100, model.layout.first_visual_token, model.layout.end_of_visual)
    cache.prefill(0, second[:30].tolist())  # an earlier occupant
    for row, sequence in enumerate((first, second)):
        cache.prefill(row, sequence[: STEPS[0, row]].tolist())
    return np.stack([step(cache, [first[a], second[b], 0], [a, b, c]) for a, b, c in STEPS])


def gap_refusal(backend: MindoneBackend) -> str:
    """Return the text of the ValueError for a step that would leave a gap, or an empty string if there is none."""
    cache = backend.cached(1, 100, 0, 4)
    cache.prefill(0, [1, 2, 3])
    try:
        step(cache, [4], [4])
    except ValueError as error:
        return str(error)
    return ""


def generate(model: LanguageModel, golden: dict[str, Any]) -> np.ndarray:
    """Return the codes (1, H, W) of the first golden prompt."""
    size = golden["height"], golden["width"]
    request = VisualRequest("0", golden["prompts"][0], golden["negative"], *size, seed=0)
    return model.generate_codes([request], SamplingOptions(greedy=True), golden["guidance_scale"])[0]


def loaded_by_mindone(name: str, directory: Path) -> np.ndarray:
    """Return the logits (L, V) of IDS from a class of mindone, which loads the directory by its usual call."""
    import mindone.transformers

    model = getattr(mindone.transformers, name).from_pretrained(directory).set_train(False)
    return model(Tensor([IDS], ms.int32), use_cache=False).logits[0].asnumpy()


def main(golden: Path, tied: Path, damaged: Path, saved: Path, outputs: Path) -> None:
    """Run the golden sequences through mindone's decoder."""
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
        refusal=refusal_of(lambda: load(damaged)),
        **{name: loaded_by_mindone(name, saved / name) for name in CLASSES},
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
