"""Loading a pipeline: the order of its steps, and what is refused before any of them starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lm_stage.model.options import EMBEDDED_MODEL
from pipelines.cli import main
from pipelines.workflow.file import EXAMPLES
from pipelines.workflow.pipeline import load_pipeline
from shared.errors import UsageError
from tests.support.small_pipelines import CHAIN, load, steps
from vq_stage.model.weights import EMBEDDED_TOKENIZER


def test_steps_run_after_those_they_need_and_otherwise_in_file_order(folder: Path) -> None:
    pipeline = load(CHAIN)
    assert [step.name for step in pipeline.steps] == ["codes", "pictures"]
    assert pipeline.steps[0].arguments == ("encode", "--resize", "none", "--", "./photos", "p/codes")
    assert pipeline.steps[1].arguments == ("decode", "--", "p/codes", "p/pictures")
    assert pipeline.steps[1].needs == ("codes",)


@pytest.mark.parametrize(
    ("described", "match"),
    [
        ("steps: [", "not a YAML file"),
        ({}, "expected `steps`"),
        ({"stages": {}, **CHAIN}, "unknown 'stages'"),
        (steps(a={"run": "paint"}), "expected `run: COMMAND`"),
        ({"steps": {"a b": {"run": "verify"}}}, "expected a name"),
        ({**CHAIN, "variables": {"codes": "x", "here": "."}}, "both a variable and a step"),
        (steps(a={"run": "encode", "source": "photos", "sizes": 3}), "unknown sizes"),
        (steps(a={"run": "encode", "source": "photos", "resize": "cut"}), "not one of"),
        (steps(a={"run": "encode", "source": "photos", "unit-rows": "many"}), "not a valid integer"),
        (steps(a={"run": "encode"}), "Missing argument"),
        (
            steps(a={"run": "encode", "source": "photos", "unit-rows": "0"}),
            "step a: --unit-rows 0: expected at least 1",
        ),
        (
            steps(a={"run": "encode", "source": "photos", "resize": "none", "area": "64"}),
            "step a: --area needs",
        ),
        (steps(a={"run": "decode", "dataset": "photos", "quality": "0"}), "step a: --quality 0"),
        (steps(a={"run": "sft", "datasets": ["photos"], "loss": "text"}), "task image has no codes to learn"),
        (steps(a={"run": "sft", "datasets": ["photos,task=paint"]}), "expected a task of"),
        (
            steps(a={"run": "generate", "prompts": "photos/one.png", "guidance-scale": "-1"}),
            "step a: --guidance-scale -1",
        ),
        (steps(a={"run": "understand", "dataset": "photos", "max-new-tokens": "0"}), "max-new-tokens 0"),
        (steps(a={"run": "train-vq", "source": "photos"}), "give either --config"),
        (
            steps(a={"run": "encode", "source": "nowhere"}),
            "nowhere: no such file or folder, and no step writes it",
        ),
        (steps(a={"run": "encode", "source": "{0..3}.tar"}), r"3}.tar: 0.tar does not exist; .*working directory"),
        (steps(a={"run": "encode", "source": "{0..9999999}.tar"}), "9}.tar: braces: more than 1000000 names"),
        (steps(a={"run": "encode", "source": "*.tar"}), "step a: .*tar: no such file"),
        (steps(a={"run": "encode", "source": "$HOME/nowhere"}), "working directory, .*; environment variables are not"),
        (steps(a={"run": "encode", "source": "${PATH}"}), "pass an environment variable with --set NAME=.PATH"),
        (steps(a={"run": "encode", "source": "x" * 5000}), "step a: "),
        (
            steps(a={"run": "encode", "source": "photos", "vision-tokenizer": "x" * 400}),
            "step a: x*: expected the directory of a vision tokenizer, found nothing there",
        ),
        (steps(a={"run": "encode", "source": "."}), "contains the outputs of the steps"),
        (steps(a={"run": "encode", "source": "photos", "dataset": "elsewhere"}), "the step writes to p/a"),
        (
            steps(a={"run": "sft", "datasets": ["${b}"], "zero": "perhaps"}, b={"run": "encode", "source": "photos"}),
            "not",
        ),
        (
            steps(a={"run": "sft", "datasets": ["photos"], "sample-prompts": "none.txt"}),
            "none.txt: no such file",
        ),
        ("steps: {a: {run: verify}, a: {run: verify}}", "duplicate key 'a'"),
        ("steps: {a: {run: encode, source: x, source: y}}", "duplicate key 'source'"),
        (
            steps(a={"run": "encode", "source": "photos", "unit-rows": "1", "unit_rows": "2"}),
            "duplicate key 'unit_rows'",
        ),
        ("steps: {a: {run: [encode]}}", "expected `run: COMMAND`"),
        ("steps: {a: {run: encode, source: {b: c}}}", "source: expected a string or a list of strings"),
        ("steps: {a: {run: sft, datasets: []}}", "datasets: expected a string or a list of strings"),
        ("{out: [x], steps: {a: {run: verify}}}", "`out`: expected a folder"),
        ({**CHAIN, "out": "s3://bucket/p"}, "expected a folder on this machine"),
        ({**CHAIN, "variables": {"here": "${later}", "later": "."}}, "later}: no such variable"),
        (steps(stale={"run": "encode", "source": "photos"}), "expected a name"),
        (steps(a={"run": "encode", "source": "htps://x/y"}), "htps://x/y: cannot be read"),
        (steps(a={"run": "encode", "source": "empty"}), "the folder is empty; is it mounted"),
        (
            steps(a={"run": "encode", "source": "photos", "vision-tokenizer": "photos"}),
            "step a: photos: expected the directory of a vision tokenizer",
        ),
        (steps(a={"run": "verify", "dataset": "${b}"}), "no such variable, and no step of this name writes anything"),
        (
            steps(a={"run": "decode", "dataset": "${b}"}, b={"run": "generate", "prompts": "${a}"}),
            "in a cycle",
        ),
    ],
)
def test_pipelines_that_cannot_work_are_refused(described: object, match: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=match):
        load(described)


def test_a_link_to_itself_is_a_missing_input(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="step a: loop: no such file or folder"):
        load(steps(a={"run": "encode", "source": "loop"}))


def test_all_problems_are_named_at_once(folder: Path) -> None:
    with pytest.raises(UsageError) as refused:
        load(steps(a={"run": "encode", "source": "nowhere"}, b={"run": "verify"}), {"x": "1"})
    with pytest.raises(UsageError, match="step 'codes': expected `run: COMMAND`"):
        load(CHAIN, {"codes.run": "paint"})
    assert all(text in str(refused.value) for text in ("nowhere", "step b: Missing argument", "--set x"))


def test_variables_and_options_can_be_set(folder: Path) -> None:
    pipeline = load(CHAIN, {"here": str(folder), "codes.resize": "area", "codes.allow-numerics-change": "true"})
    assert pipeline.steps[0].arguments[:4] == ("encode", "--resize", "area", "--allow-numerics-change")
    assert f"{folder}/photos" in pipeline.steps[0].arguments


def test_the_home_directory_is_inserted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    described = {**steps(a={"run": "encode", "source": "~/photos"}), "out": "~/made"}
    assert load(described).steps[0].arguments[-2:] == (f"{folder}/photos", f"{folder}/made/a")


def test_values_keep_their_spelling(folder: Path) -> None:
    """A ratio is not a sexagesimal number, and a flag may be a variable."""
    described = (
        "steps: {a: {run: generate, prompts: photos/one.png, ratio: 16:9, greedy: '${plain}'}}\nvariables: {plain: yes}"
    )
    assert load(described).steps[0].arguments[1:4] == ("--greedy", "--ratio", "16:9")
    assert "--greedy" not in load(described, {"plain": "false"}).steps[0].arguments


def test_the_output_of_a_step_is_recognized_however_its_path_is_spelled(folder: Path) -> None:
    pipeline = load(
        steps(
            again={"run": "decode", "dataset": f"{folder}/p/codes"},
            codes={"run": "encode", "source": "photos"},
        )
    )
    assert [step.name for step in pipeline.steps] == ["codes", "again"]
    assert pipeline.steps[1].needs == ("codes",)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_examples_are_valid_once_the_users_files_exist(path: Path, folder: Path) -> None:
    files = {"tokenizer": EMBEDDED_TOKENIZER, "model": EMBEDDED_MODEL, "prompts": folder / "photos/one.png"}
    variables = yaml.safe_load(path.read_text())["variables"]
    for name, location in variables.items():
        if name in files and not location.startswith("${package}"):
            Path(location).symlink_to(files[name])
    assert len(load_pipeline(path.stem, {}, None, main).steps) > 2


@pytest.mark.parametrize("name", ["demo", "demo-emu35"])
def test_the_demos_accept_fewer_steps_of_training(name: str, tmp_path: Path) -> None:
    assert load_pipeline(name, {"steps": "2", "warmup": "0"}, str(tmp_path / "out"), main).steps
