"""Datasets to export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.small_datasets import (
    CODES_SETTINGS,
    SEQUENCE_SETTINGS,
    code_rows,
    sequence_rows,
    write_dataset,
)


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "codes", code_rows(), CODES_SETTINGS).root


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "seqs", sequence_rows(), SEQUENCE_SETTINGS).root
