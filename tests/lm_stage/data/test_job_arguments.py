"""What jobs over training sequences refuse as their directory, and as the length of a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_stage.data.job_arguments import open_model, output_directory
from lm_stage.data.options import SequenceOptions
from shared.errors import UsageError
from tests.support.sequence_exports import CODES, MODEL


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://bucket/run", "expected a local directory for RUN, got a URL"),
        ("codes,task=text", "expected DATASETS, then the directory RUN; this is a dataset"),
        (str(CODES), "expected DATASETS, then the directory RUN; this is a dataset"),
        (__file__, "expected a directory for RUN, got a file"),
    ],
)
def test_what_cannot_be_a_directory_to_write_is_refused(location: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        output_directory(location, "RUN")


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"run: is a link to .*nothing, which does not exist"):
        output_directory(str(tmp_path / "run"), "RUN")


def test_a_directory_that_does_not_exist_is_accepted(tmp_path: Path) -> None:
    assert output_directory(str(tmp_path / "run"), "RUN") == tmp_path / "run"


def test_rows_longer_than_the_positions_of_the_model_are_refused() -> None:
    positions = open_model(SequenceOptions(("codes",), model=str(MODEL), seq_length=8)).config.max_position_embeddings
    with pytest.raises(UsageError, match=f"at most the {positions} positions of the model, got {positions + 1}"):
        open_model(SequenceOptions(("codes",), model=str(MODEL), seq_length=positions + 1))
