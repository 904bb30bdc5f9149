"""The embedded results."""

from __future__ import annotations

import numpy as np

from pipelines.doctor.expected import FILE, GRID, SIDE, expected


def test_the_results_have_the_documented_shapes() -> None:
    shapes = {name: array.shape for name, array in expected().items()}
    grid, tokens = SIDE // 8, shapes["token_ids"][0]
    assert shapes["pictures"] == shapes["pixels"] == (2, SIDE, SIDE, 3)
    assert (shapes["codes"], shapes["canary"]) == ((2, grid, grid), (1, grid, grid))
    assert (shapes["tokens"], shapes["margins"]) == ((1, GRID, GRID), (GRID * GRID,))
    assert (shapes["logits"][0], shapes["losses"]) == (tokens, (10,))
    assert all(np.isfinite(array).all() for array in expected().values())


def test_the_file_is_small() -> None:
    assert FILE.stat().st_size < 100_000
