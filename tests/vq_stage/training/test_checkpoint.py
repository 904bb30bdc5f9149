"""Whether a folder may be resumed; what a checkpoint restores is tested in `test_job.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import ConfigMismatchError
from vq_stage.training.checkpoint import check_resumable
from vq_stage.training.options import TrainVQOptions


def test_other_settings_are_refused_with_the_differences(tmp_path: Path) -> None:
    recorded = TrainVQOptions("s", "o", config="c", batch=4, seed=1)
    check_resumable(tmp_path, recorded)  # an empty folder
    (tmp_path / "train_options.json").write_text(json.dumps(recorded.to_json()))
    check_resumable(tmp_path, recorded)
    with pytest.raises(ConfigMismatchError, match=r"batch: recorded 4, given 8\n  seed: recorded 1, given 0"):
        check_resumable(tmp_path, TrainVQOptions("s", "o", config="c", batch=8))
