"""Comparing two implementations: substituted results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.doctor import mindone
from pipelines.doctor.check import Verdict


@pytest.mark.parametrize(("equal", "verdict"), [(100, Verdict.PASSED), (98, Verdict.FAILED)])
def test_codes_of_both_must_be_equal(equal: int, verdict: Verdict) -> None:
    def load(backend: str) -> Callable[[], np.ndarray]:
        return lambda: np.arange(100) + (np.arange(100) >= equal) * (backend == "mindone")

    finding = mindone.compare(load, "float32")
    assert finding.verdict is verdict
    assert finding.measured["equal_share"] == equal / 100
    assert f"{equal}.0% of 100 values are equal" in finding.reason
    assert set(finding.measured) == {"equal_share", "native_s", "mindone_s"}
