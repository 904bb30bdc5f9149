"""A sequence builder for the tests of samples."""

from __future__ import annotations

import pytest

from lm_stage.data.sequences import SequenceBuilder
from tests.support.sft_samples import small_builder


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    return small_builder()
