"""Checks that compare our models with those of mindone on an NPU, in float32.

In half precision two correct models soon generate different tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.doctor import language, vision
from pipelines.doctor.check import Check, Finding, Setting
from pipelines.doctor.expected import expected
from pipelines.doctor.tolerances import TOLERANCES

NEEDS_NPU = "mindone's models use operators that have no kernel on a CPU"
NEXT_STEP = "the checks without --compare say whose results are unexpected; report the JSON file"


def compare_codes(setting: Setting, dtype: str) -> Finding:
    """Codes of the embedded pictures."""

    def encode(backend: str) -> Callable[[], np.ndarray]:
        tokenizer = vision.load(setting.device, dtype, setting.kernels, backend)
        return lambda: tokenizer.encode_images(expected()["pictures"])

    return compare(encode, dtype)


def compare_tokens(setting: Setting, dtype: str) -> Finding:
    """Greedy tokens."""

    def generate(backend: str) -> Callable[[], np.ndarray]:
        return language.greedy_generation(language.load(setting.device, dtype, setting.kernels, backend))

    return compare(generate, dtype)


def compare(load: Callable[[str], Callable[[], np.ndarray]], dtype: str) -> Finding:
    """Compute with both backends; the time of each is that of a second call, without compilation."""
    (ours, ours_s), (theirs, theirs_s) = (_timed(load(backend)) for backend in ("native", "mindone"))
    equal, least = float(np.mean(ours == theirs)) if ours.shape == theirs.shape else 0.0, TOLERANCES[dtype].codes
    reason = f"{equal:.1%} of {ours.size} values are equal, at least {least:.0%} are required;"
    reason += f" native {ours_s:.3g} s, mindone {theirs_s:.3g} s"
    measured = {"equal_share": equal, "native_s": ours_s, "mindone_s": theirs_s}
    return Finding.of(equal >= least, reason, NEXT_STEP, measured)


def _timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    compute()
    began = time.perf_counter()
    return compute(), time.perf_counter() - began


CHECKS = (
    Check("mindone-codes", "mindone", compare_codes, only_dtypes=("float32",), needs_npu=NEEDS_NPU),
    Check("mindone-tokens", "mindone", compare_tokens, only_dtypes=("float32",), needs_npu=NEEDS_NPU),
)
