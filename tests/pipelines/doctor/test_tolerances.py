"""The error of a result."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.doctor.tolerances import TOLERANCES, relative_error
from tests.support.command import REPOSITORY


def test_the_error_is_relative_to_the_largest_value() -> None:
    expected = np.array([1.0, -4.0])
    assert relative_error(np.array([1.5, -4.0]), expected) == 0.125
    assert relative_error(expected, expected) == 0


@pytest.mark.parametrize("got", [np.array([np.nan, 1.0]), np.array([np.inf, 1.0]), np.zeros(3)])
def test_what_is_not_finite_or_has_another_shape_is_infinitely_wrong(got: np.ndarray) -> None:
    assert relative_error(got, np.array([1.0, 1.0])) == float("inf")
    assert relative_error(np.array([1.0, 1.0]), got) == float("inf")


def test_the_page_shows_the_tolerances() -> None:
    lines = (REPOSITORY / "docs" / "doctor.md").read_text(encoding="utf-8").splitlines()
    for name in ("codes", "pixels", "logits", "losses", "kernels"):
        shown = next(line for line in lines if line.startswith(f"| {name},")).split("|")[2:5]
        assert [float(text) for text in shown] == [getattr(one, name) for one in TOLERANCES.values()], name


def test_half_precision_is_allowed_larger_errors() -> None:
    single, half, brain = (TOLERANCES[name] for name in ("float32", "float16", "bfloat16"))
    assert single.codes > half.codes > brain.codes
    for name in ("pixels", "logits", "losses", "kernels"):
        assert getattr(single, name) < getattr(half, name) < getattr(brain, name)
