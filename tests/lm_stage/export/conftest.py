"""A mixture of captions, questions and texts about twelve small pictures, and the model whose vocabulary it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_stage.data.mixture import Mixture
from lm_stage.export.options import SequenceExportOptions
from tests.support.sequence_exports import mixture_options, open_mixture
from tests.support.sft_samples import write_lines


@pytest.fixture
def options(tmp_path: Path) -> SequenceExportOptions:
    lines = write_lines(tmp_path / "lines.jsonl", {"text": "a red apple"}, {"question": "what", "answer": "a pear"})
    return mixture_options(tmp_path / "out", lines)


@pytest.fixture
def mixture(options: SequenceExportOptions) -> Mixture:
    return open_mixture(options)
