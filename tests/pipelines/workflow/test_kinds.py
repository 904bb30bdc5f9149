"""Kinds of inputs and outputs: a reference to the wrong thing is refused before any step starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.workflow.command_line import INPUT_PARAMETERS, OUTPUT_PARAMETERS
from pipelines.workflow.kinds import ACCEPTED_KINDS, OUTPUT_KINDS, Kind, kind_of_path
from shared.dataset.settings import ANSWER_FORMAT, CODES_FORMAT, SEQUENCE_FORMAT
from shared.errors import UsageError
from tests.support.sft_samples import write_dataset
from tests.support.small_pipelines import load

STEPS: dict[str, dict[str, object]] = {
    "codes": {"run": "encode", "source": "photos"},
    "tuned": {"run": "sft", "datasets": ["${codes}"]},
    "tokens": {"run": "generate", "prompts": "${codes}", "model": "${tuned}/model"},
    "images": {"run": "decode", "dataset": "${tokens}"},
    "stories": {"run": "generate", "prompts": "photos/one.png", "task": "story"},
    "pages": {"run": "decode", "dataset": "${stories}"},
    "checked": {"run": "verify", "dataset": "${stories}"},
    "restored": {"run": "decode", "dataset": "${codes}"},
    "answers": {"run": "understand", "dataset": "${codes}", "model": "${tuned}/model"},
    "model": {"run": "init-lm", "dataset": "${codes}"},
    "tokenizer": {"run": "train-vq", "source": "photos", "init-from": "photos/tokenizer"},
}


@pytest.fixture(autouse=True)
def tokenizer(folder: Path) -> None:
    (folder / "photos/tokenizer").mkdir()
    (folder / "photos/tokenizer/config.json").write_text('{"codebook_size": 8}')


def test_every_input_and_output_has_a_kind() -> None:
    assert set(ACCEPTED_KINDS) == set(INPUT_PARAMETERS)
    assert set(OUTPUT_KINDS) == {command for command, written in OUTPUT_PARAMETERS.items() if written}


def test_references_of_the_right_kind() -> None:
    assert len(load({"steps": STEPS}).steps) == len(STEPS)


@pytest.mark.parametrize(
    ("step", "option", "value", "expected"),
    [
        ("tokens", "model", "${tuned}", r"got a training run; give \$\{tuned\}/model$"),
        ("tokens", "model", "${tuned}/adapter", r"got a LoRA adapter; give \$\{tuned\}/model, into which"),
        ("tokens", "model", "${codes}", r"got a codes dataset; give \$\{model\} or \$\{tuned\}/model$"),
        ("tuned", "datasets", ["${codes}", "${restored}"], r"got pictures or videos; give \$\{codes\}$"),
        ("tuned", "datasets", ["${codes}", "${stories}"], r"got a dataset of text and images.*; give \$\{codes\}$"),
        ("answers", "dataset", "${stories}", r"expected .* generated sequences, got a dataset of text"),
        ("tokens", "images", "${stories}", r"images: .*got a dataset of text and images"),
        ("tuned", "held-out", "${restored},task=image", r"held_out: .*got pictures"),
        ("images", "dataset", "${tuned}/model", r"a codes dataset, .* or .*text and images.*, got a language model"),
        ("images", "dataset", "p/images/../tuned", r"got a training run"),
        ("images", "vision-tokenizer", "${model}", r"expected a vision tokenizer, got a language model; give \$\{tok"),
        ("tokens", "prompts", "${answers}", r"prompts: .*got an answer file"),
        ("answers", "questions", "${codes}", r"expected a file, got a codes dataset; give another path"),
        ("tokenizer", "source", "${model}", r"expected pictures or videos, a file or a folder.*got a language model"),
        ("images", "dataset", "photos", r"got a folder that is none of these; give \$\{codes\}"),
        ("tokens", "model", "photos/tokenizer", r"expected a language model, got a vision tokenizer"),
        ("tokens", "model", "photos/one.png", r"expected a language model, got a file"),
    ],
)
def test_references_of_the_wrong_kind(step: str, option: str, value: object, expected: str) -> None:
    steps = {**STEPS, step: {**STEPS[step], option: value}}
    with pytest.raises(UsageError, match=f"(?m)step {step}: .*{expected}"):
        load({"steps": steps})


def test_what_lies_inside_an_output_is_not_judged() -> None:
    inside = {"run": "generate", "prompts": "${codes}", "model": "${tuned}/checkpoints/step-00000100"}
    assert load({"steps": {**STEPS, "tokens": inside}}).steps


@pytest.mark.parametrize(
    ("format", "kind"),
    [(CODES_FORMAT, Kind.CODES), (SEQUENCE_FORMAT, Kind.SEQUENCES), (ANSWER_FORMAT, Kind.INTERLEAVED)],
)
def test_kinds_of_datasets(format: str, kind: Kind, tmp_path: Path) -> None:
    assert kind_of_path(str(write_dataset(tmp_path / "dataset", [], format=format))) is kind


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"adapter_config.json": {}}, Kind.ADAPTER),
        ({"options.json": {}, "checkpoints/x": {}}, Kind.RUN),
        ({"config.json": {"num_hidden_layers": 2}}, Kind.LANGUAGE_MODEL),
        ({"config.json": {"text_config": {}}}, Kind.LANGUAGE_MODEL),
        ({"config.json": {"codebook_size": 8}}, Kind.VISION_TOKENIZER),
        ({"config.json": []}, Kind.OTHER),
        ({"a.png": {}}, Kind.OTHER),
    ],
)
def test_kinds_of_folders(files: dict[str, object], kind: Kind, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert kind_of_path(str(tmp_path)) is kind
