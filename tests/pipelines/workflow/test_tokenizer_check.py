"""The check that options suit the vision tokenizer of their step."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import UsageError
from tests.support.small_pipelines import load, steps

ENCODE = {"run": "encode", "source": "photos"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("round-to", "12", "step a: --round-to 12: expected a multiple of 8"),
        ("clip-frames", "6", "step a: --clip-frames 6: expected a multiple of 4"),
    ],
)
def test_options_that_do_not_suit_the_tokenizer_are_refused(
    folder: Path, option: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load(steps(a={**ENCODE, option: value}))
    assert load(steps(a={**ENCODE, option: "16"}))


def test_each_tokenizer_has_its_own_multiples(folder: Path, golden_ibq: Path) -> None:
    """The golden one has 4 pixels per code and encodes images only."""
    images_only = {**ENCODE, "vision-tokenizer": str(golden_ibq)}
    assert load(steps(a={**images_only, "round-to": "12"}))
    with pytest.raises(UsageError, match=r"step a: --clip-frames, .* this tokenizer encodes images only"):
        load(steps(a={**images_only, "clip-frames": "8"}))


def test_a_tokenizer_that_a_step_trains_is_known_by_its_config(folder: Path, golden_ibq: Path) -> None:
    made = {"run": "train-vq", "source": "photos", "config": str(golden_ibq / "config.json"), "crop": "64"}
    tuned = {"run": "train-vq", "source": "photos", "init-from": "${made}", "crop": "64"}
    codes = {**ENCODE, "vision-tokenizer": "${tuned}", "round-to": "12"}
    assert load(steps(made=made, tuned=tuned, codes=codes))
    with pytest.raises(UsageError, match=r"step codes: --round-to 10: expected a multiple of 4"):
        load(steps(made=made, tuned=tuned, codes={**codes, "round-to": "10"}))
    with pytest.raises(UsageError, match="step tuned: --crop 50: expected a multiple of 4"):
        load(steps(made=made, tuned={**tuned, "crop": "50"}))


def test_a_tokenizer_that_cannot_be_read_is_reported_once(folder: Path) -> None:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"codebook_size": 7}')
    with pytest.raises(UsageError) as refused:
        load(steps(a={**ENCODE, "vision-tokenizer": "broken", "round-to": "12"}))
    assert str(refused.value).count("config.json") == 1
    assert "--round-to" not in str(refused.value)
