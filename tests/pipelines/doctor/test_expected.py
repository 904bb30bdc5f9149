"""The embedded results."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.doctor.check import Check, Setting
from pipelines.doctor.checks import DEVICE_CHECKS
from pipelines.doctor.expected import FILE, GRID, SIDE, expected

# What each check measures, and by how much it may differ.
EXACT = {
    "equal_share": (1.0, 0.0),
    "equal_tokens": (GRID * GRID, 0.0),
    "mean_difference_levels": (0.0, 1e-3),
    "relative_error": (0.0, 1e-5),
}


def test_the_results_have_the_documented_shapes() -> None:
    shapes = {name: array.shape for name, array in expected().items()}
    grid, tokens = SIDE // 8, shapes["token_ids"][0]
    assert shapes["pictures"] == shapes["pixels"] == (2, SIDE, SIDE, 3)
    assert (shapes["codes"], shapes["canary"]) == ((2, grid, grid), (1, grid, grid))
    assert (shapes["tokens"], shapes["margins"]) == ((1, GRID, GRID), (GRID * GRID,))
    assert (shapes["logits"][0], shapes["losses"]) == (tokens, (10,))
    assert all(np.isfinite(array).all() for array in expected().values())


CHECKS = [one for one in DEVICE_CHECKS if not one.needs_npu and one.name != "canary"]  # a test of the command runs that


@pytest.mark.parametrize("check", CHECKS, ids=lambda one: one.name)
def test_this_machine_computes_the_expected_results(check: Check) -> None:
    """They were computed on another CPU: codes and tokens are equal, numbers up to rounding."""
    finding = check.run(Setting("cpu"), "float32")
    found = {name: value for name, value in finding.measured.items() if name in EXACT}
    assert found, finding.reason
    assert all(abs(value - EXACT[name][0]) <= EXACT[name][1] for name, value in found.items()), finding.reason


def test_the_file_is_small() -> None:
    assert FILE.stat().st_size < 100_000
