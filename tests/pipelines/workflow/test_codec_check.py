"""The check that no step mixes the codes of two vision tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.dataset.plan_writer import freeze_plan
from shared.errors import UsageError
from tests.support.small_pipelines import load, steps
from vq_stage.encode.options import EncodeOptions


@pytest.mark.parametrize("command", ["decode", "inspect", "understand", "init-lm"])
def test_mixing_the_codes_of_two_tokenizers_is_refused(command: str, folder: Path, golden_vq: Path) -> None:
    """A step without a tokenizer uses the embedded one; `init-lm` makes a model of the codes that it reads."""
    encode = {"run": "encode", "source": "photos", "vision-tokenizer": str(golden_vq)}
    others: dict[str, dict[str, object]] = {"b": {"run": command, "dataset": "${a}"}}
    if command == "init-lm":
        others["c"] = {"run": "generate", "prompts": "photos/one.png", "model": "${b}"}
        assert load(steps(a=encode, **others))
        others["d"] = {"run": "decode", "dataset": "${c}"}
    with pytest.raises(UsageError, match=r"mixes the codes of two vision tokenizers: .* of .*emu3-tiny"):
        load(steps(a=encode, **others))


def test_the_codec_of_codes_on_disk_is_checked(folder: Path, golden_vq: Path) -> None:
    settings = EncodeOptions("", "", vision_tokenizer=str(golden_vq)).recorded()
    (folder / "codes").mkdir()
    freeze_plan(folder / "codes/plan.arrow", [], settings, 0)
    tuned = {"run": "sft", "datasets": ["codes,weight=2"]}
    with pytest.raises(UsageError, match=r"two vision tokenizers: .* of codes"):
        load(steps(a=tuned))
    assert load(steps(a={"run": "decode", "dataset": "codes", "vision-tokenizer": str(golden_vq)}))


def test_a_tokenizer_that_a_step_trains_is_distinct(folder: Path) -> None:
    made = {"run": "train-vq", "source": "photos", "config": "photos/one.png"}
    encode = {"run": "encode", "source": "photos", "vision-tokenizer": "${made}"}
    decode = {"run": "decode", "dataset": "${codes}", "vision-tokenizer": "${made}"}
    assert load(steps(made=made, codes=encode, pictures=decode))
    decode["vision-tokenizer"] = "${other}"
    with pytest.raises(UsageError, match="step other of p/other"):
        load(steps(made=made, other=made, codes=encode, pictures=decode))


def test_only_codes_pass_a_codec_on(folder: Path, golden_vq: Path, small_lm: Path) -> None:
    """Pictures, captions and answers have none."""
    other = {"vision-tokenizer": str(golden_vq)}
    codes = {"run": "encode", "source": "photos", **other}
    assert load(
        steps(
            codes=codes,
            pictures={"run": "decode", "dataset": "${codes}", **other},
            again={"run": "encode", "source": "${pictures}"},
            tokens={"run": "generate", "prompts": "${codes}", "model": str(small_lm)},
            answers={"run": "understand", "dataset": "${again}"},
            tuned={"run": "sft", "datasets": ["${again}", "${answers},task=text"], "sample-prompts": "${codes}"},
        )
    )
    with pytest.raises(UsageError, match="step tuned: mixes the codes of two"):
        load(steps(codes=codes, tuned={"run": "sft", "datasets": ["${codes}"], "model": str(small_lm)}))
