"""Settings of an export of sequences that cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from lm_stage.export.options import SequenceExportOptions
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "tar"}, "--format: expected one of megatron, mindrecord, got tar"),
        ({"documents": "page"}, "--documents: expected one of sample, row, got page"),
        ({"format": "mindrecord", "documents": "row"}, "--documents: expected none with mindrecord, which has rows"),
        ({"epochs": 0}, "--epochs: expected at least 1, got 0"),
        ({"seq_length": 0}, "--seq-length: expected at least 1"),
        ({"datasets": ()}, "DATASETS: expected at least one"),
        ({"datasets": ("codes,task=text",), "loss": "visual"}, "task text has no text to learn with --loss visual"),
        ({"caption_dropout": 2.0, "seed": -1}, "--caption-dropout: expected 0 to 1, got 2.0; --seed: expected"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    given = {"datasets": ("codes",), "out": "out", "format": "megatron", **changes}
    with pytest.raises(UsageError) as caught:
        SequenceExportOptions(**given)
    assert message in str(caught.value)
