"""Parity of the native backend with the upstream PyTorch model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm_stage import LanguageModel
from shared.errors import UsageError
from tests.support.golden_language import GoldenLanguageModel

TOLERANCE = 1e-3  # of logits; measured 2.4e-5


@pytest.mark.parametrize("sample", [0, 1, 2])
def test_logits_are_those_of_upstream(golden: GoldenLanguageModel, sample: int) -> None:
    logits = golden.model.logits([*golden.prompts[sample], *golden.arrays[f"tokens_{sample}"]])
    np.testing.assert_allclose(logits, golden.arrays[f"logits_{sample}"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sample", [0, 1])
def test_logits_with_norms_of_queries_and_keys_are_those_of_qwen3(emu35: GoldenLanguageModel, sample: int) -> None:
    logits = emu35.model.logits([*emu35.prompts[sample], *emu35.arrays[f"tokens_{sample}"]])
    np.testing.assert_allclose(logits, emu35.arrays[f"logits_{sample}"], atol=TOLERANCE, rtol=0)


def test_an_unknown_backend_is_refused(golden: GoldenLanguageModel, golden_lm: Path) -> None:
    with pytest.raises(UsageError, match="'torch': expected one of native, mindone"):
        LanguageModel.from_pretrained(golden_lm, layout=golden.model.layout, backend="torch")
