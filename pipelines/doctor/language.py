"""Checks of the language model: logits and greedy tokens of the embedded model, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pipelines.doctor.check import PLAIN_KERNELS, Finding, Setting
from pipelines.doctor.expected import GRID, LOGIT_STEP, PROMPT, expected
from pipelines.doctor.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from lm_stage.language_model import LanguageModel

NEXT_STEP = f"do not generate or train with this number type; {PLAIN_KERNELS}"


def load(device: str, dtype: str, kernels: str, backend: str = "native") -> LanguageModel:
    """Return the embedded language model."""
    from lm_stage.language_model import LanguageModel
    from lm_stage.model.options import EMBEDDED_MODEL

    return LanguageModel.from_pretrained(EMBEDDED_MODEL, device, dtype, backend=backend, kernels=kernels)


def greedy_generation(model: LanguageModel) -> Callable[[], np.ndarray]:
    """Return a call that generates the codes (1, 8, 8) of the most likely image for a prompt, with one KV cache.

    Its first call compiles what all of them run.
    """
    from lm_stage.inference.options import SamplingOptions
    from lm_stage.inference.visual_sequence import VisualRequest

    request = VisualRequest("0", _prompt_ids(model), None, GRID, GRID, seed=0)
    generator = model.visual_generator(1, request.length, SamplingOptions(greedy=True))
    return lambda: next(iter(generator.run([request]))).codes_THW()


def _prompt_ids(model: LanguageModel) -> list[int]:
    from lm_stage.text.renderer import SequenceRenderer
    from shared.tokens.grid_formats import IMAGE

    prompt = SequenceRenderer(model.text_tokenizer, model.layout).generation_prompt([PROMPT], IMAGE, 1, GRID, GRID)
    ids: list[int] = prompt.tolist()
    return ids


def token_ids_with(model: LanguageModel, codes_BHW: np.ndarray) -> np.ndarray:
    """Return the int32 token ids of the prompt, followed by the body of an image."""
    from shared.tokens.grid_formats import IMAGE
    from shared.tokens.visual_tokens import VISUAL, body_template

    body = body_template(1, GRID, GRID, model.layout, IMAGE).copy()
    body[body == VISUAL] = codes_BHW.reshape(-1) + model.layout.first_visual_token
    return np.concatenate([_prompt_ids(model), body]).astype(np.int32)


def margins(model: LanguageModel, logits_LV: np.ndarray, token_ids_L: np.ndarray) -> np.ndarray:
    """Return by how much the best visual token leads, for each code of a sequence."""
    first, end = model.layout.first_visual_token, model.layout.end_of_visual
    is_code = (token_ids_L >= first) & (token_ids_L < end)
    best = np.sort(logits_LV[np.flatnonzero(is_code) - 1, first:end], axis=1)
    return (best[:, -1] - best[:, -2]).astype(np.float32)


def check_logits(setting: Setting, dtype: str) -> Finding:
    """Logits of a prompt with its image, in one forward."""
    model = load(setting.device, dtype, setting.kernels)
    error = relative_error(model.logits(expected()["token_ids"])[:, ::LOGIT_STEP], expected()["logits"])
    allowed = TOLERANCES[dtype].logits
    reason = f"logits differ by {error:.2g} of the largest one, at most {allowed:g} is allowed"
    return Finding.of(error <= allowed, reason, NEXT_STEP, {"relative_error": error})


def check_tokens(setting: Setting, dtype: str) -> Finding:
    """The most likely tokens, generated with the KV cache, and tokens per second."""
    model = load(setting.device, dtype, setting.kernels)
    generate = greedy_generation(model)
    codes = generate().reshape(-1)
    began = time.perf_counter()
    generate()
    speed = codes.size / (time.perf_counter() - began)
    return judge_tokens(codes, dtype, speed)


def judge_tokens(codes: np.ndarray, dtype: str, tokens_per_s: float) -> Finding:
    """A token may differ where the best two logits are closer than the tolerance; those after it are not compared."""
    tokens, lead = expected()["tokens"].reshape(-1), expected()["margins"]
    different = np.flatnonzero(codes != tokens) if codes.shape == tokens.shape else np.array([0])
    equal = int(different[0]) if different.size else tokens.size
    allowed = TOLERANCES[dtype].logits * float(np.abs(expected()["logits"]).max())
    is_passed = equal == tokens.size or float(lead[equal]) <= 2 * allowed
    reason = f"{equal} of {tokens.size} greedy tokens are as expected"
    if equal < tokens.size:
        reason += f"; at the next one the best two logits are {lead[equal]:.3g} apart, {2 * allowed:.3g} is a tie"
    reason += f"; {tokens_per_s:.1f} tokens/s for one image"
    measured = {"equal_tokens": float(equal), "tokens_per_s": tokens_per_s}
    return Finding.of(is_passed, reason, NEXT_STEP, measured)
