"""Options of the doctor."""

from __future__ import annotations

import pytest

from pipelines.doctor.options import DoctorOptions
from shared.errors import UsageError


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_time_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(UsageError, match="--time-limit"):
        DoctorOptions(time_limit_s=limit)
