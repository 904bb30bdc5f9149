"""Settings of prompts that do not have their own."""

from __future__ import annotations

from typing import Any

import pytest

from lm_stage.generate.prompts import PromptDefaults
from shared.errors import UsageError


@pytest.mark.parametrize(
    "changes",
    [{"samples": 0}, {"ratio": "0:1"}, {"area": 0}, {"height": 64}, {"height": 60, "width": 64}, {"frames": -1}],
)
def test_bad_defaults_stop_the_run(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PromptDefaults(**{"area": 32 * 32, **changes})
