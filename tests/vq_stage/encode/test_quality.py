"""The canary: a test image whose codes every worker compares with those of the dataset's first worker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json
from vq_stage.encode.quality import check_canary


class Tokenizer:
    """Encodes every picture to the same codes."""

    def __init__(self, codes: list[int]):
        self.codes = codes

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        return np.array([self.codes] * len(pixels), np.uint16).reshape(len(pixels), 1, -1)


def check(path: Path, codes: list[int]) -> None:
    check_canary(SimpleNamespace(canary_path=path), Tokenizer(codes), 2, 16, 16)  # type: ignore[arg-type]


def test_the_first_worker_writes_the_canary_and_the_others_compare_with_it(tmp_path: Path) -> None:
    path = tmp_path / "canary.json"
    check(path, [1, 2, 3, 4])
    check(path, [1, 2, 3, 4])
    with pytest.raises(DatasetError, match=r"canary: 75\.0% of the codes equal the dataset's"):
        check(path, [1, 2, 3, 5])
    with pytest.raises(DatasetError, match=r"canary: 0\.0%"):
        check(path, [1, 2, 3])


@pytest.mark.parametrize("values", [{}, {"codes": {"a": 1}}, {"codes": [[1], [2, 3]]}, {"codes": [True, 0.5]}])
def test_a_canary_with_other_values_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    (tmp_path / "canary.json").write_bytes(dump_checked_json(values))
    with pytest.raises(DatasetError, match=r"canary\.json: expected a list of codes; remove the file"):
        check(tmp_path / "canary.json", [1])
