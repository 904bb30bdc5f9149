"""Settings of an encode job that cannot work are refused on construction."""

from __future__ import annotations

import pytest

from shared.errors import UsageError
from vq_stage.encode.options import NOT_RETRIED, EncodeOptions


@pytest.mark.parametrize("reason", NOT_RETRIED)
def test_duplicates_are_not_retried(reason: str) -> None:
    with pytest.raises(UsageError, match=f"--retry-quarantined {reason}: .*fix the source"):
        EncodeOptions("", "", retry_quarantined=("missing", reason))


@pytest.mark.parametrize("reason", ["mising", "empty_prompt"])
def test_only_reasons_that_encoding_has_are_retried(reason: str) -> None:
    with pytest.raises(UsageError, match=f"--retry-quarantined {reason}: expected one of animated, .*, missing"):
        EncodeOptions("", "", retry_quarantined=(reason,))


def test_a_batch_is_filled_up_to_its_pixels_but_not_beyond_a_unit() -> None:
    options = EncodeOptions("", "", batch_pixels=100 * 100, unit_rows=8)
    assert [options.images_per_batch(side, side) for side in (8, 48, 56, 1024)] == [8, 4, 3, 1]
