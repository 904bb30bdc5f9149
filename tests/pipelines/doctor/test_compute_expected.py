"""The inputs of the embedded results."""

from __future__ import annotations

import numpy as np

from pipelines.doctor.compute_expected import pictures
from pipelines.doctor.expected import expected


def test_the_pictures_are_those_that_are_embedded() -> None:
    difference = np.abs(pictures().astype(int) - expected()["pictures"])
    assert difference.max() <= 8, "decoders of JPEG differ by a few levels"
