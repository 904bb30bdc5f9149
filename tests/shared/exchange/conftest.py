"""Datasets to export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.small_datasets import (
    CODES_SETTINGS,
    SEQUENCE_SETTINGS,
    WIDE_CODEC,
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


@pytest.fixture
def wide_codes(tmp_path: Path) -> Path:
    settings = replace(CODES_SETTINGS, codec=WIDE_CODEC)
    return write_dataset(tmp_path / "wide", code_rows(WIDE_CODEC), settings).root


@pytest.fixture
def wide_sequences(tmp_path: Path) -> Path:
    settings = replace(SEQUENCE_SETTINGS, codec=WIDE_CODEC)
    return write_dataset(tmp_path / "wide-seqs", sequence_rows(WIDE_CODEC), settings).root
