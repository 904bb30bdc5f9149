"""Pipelines: what is refused before anything starts, what is done again and what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.workflow import runner
from pipelines.workflow.file import EXAMPLES, Pipeline, load_pipeline
from pipelines.workflow.runner import StepFailed, run_pipeline
from pipelines.workflow.state import plan_steps
from pipelines.workflow.step import Step
from shared.dataset.plan_writer import freeze_plan
from shared.errors import UsageError
from shared.jobs.file_locks import try_lock
from shared.jobs.signals import StopFlag
from tests.support.command import ENCODE, INTERRUPTED, REPOSITORY, environment
from vq_stage.encode.options import EncodeOptions

CHAIN = {
    "steps": {
        "pictures": {"run": "decode", "dataset": "${codes}"},
        "codes": {"run": "encode", "source": "${here}/photos", "resize": "none"},
    },
    "variables": {"here": "."},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").write_bytes(b"picture")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(described: object, changes: dict[str, str] | None = None) -> Pipeline:
    Path("p.yaml").write_text(described if isinstance(described, str) else yaml.safe_dump(described))
    return load_pipeline("p.yaml", changes or {}, None, main)


def steps(**named: dict[str, object]) -> dict[str, object]:
    return {"steps": named}


def test_steps_run_behind_what_they_need_else_as_they_stand(folder: Path) -> None:
    pipeline = load(CHAIN)
    assert [step.name for step in pipeline.steps] == ["codes", "pictures"]
    assert pipeline.steps[0].arguments == ("encode", "--resize", "none", "--", "./photos", "p/codes")
    assert pipeline.steps[1].arguments == ("decode", "--", "p/codes", "p/pictures")
    assert pipeline.steps[1].needs == ("codes",)


@pytest.mark.parametrize(
    ("described", "match"),
    [
        ("steps: [", "cannot be read"),
        ({}, "expected `steps`"),
        ({"stages": {}, **CHAIN}, "unknown 'stages'"),
        (steps(a={"run": "paint"}), "expected `run: COMMAND`"),
        ({"steps": {"a b": {"run": "verify"}}}, "expected a name"),
        ({**CHAIN, "variables": {"codes": "x", "here": "."}}, "a variable and a step"),
        (steps(a={"run": "encode", "source": "photos", "sizes": 3}), "unknown sizes"),
        (steps(a={"run": "encode", "source": "photos", "resize": "cut"}), "not one of"),
        (steps(a={"run": "encode", "source": "photos", "unit-rows": "many"}), "not a valid integer"),
        (steps(a={"run": "encode"}), "Missing argument"),
        (
            steps(a={"run": "encode", "source": "photos", "unit-rows": "0"}),
            "step a: --unit-rows 0: expected at least 1",
        ),
        (steps(a={"run": "encode", "source": "photos", "resize": "none", "area": "64"}), "step a: --area needs"),
        (steps(a={"run": "decode", "dataset": "photos", "quality": "0"}), "step a: --quality 0"),
        (steps(a={"run": "sft", "datasets": ["photos"], "loss": "text"}), "task image has no codes to learn"),
        (steps(a={"run": "sft", "datasets": ["photos,task=paint"]}), "expected a task of"),
        (steps(a={"run": "generate", "prompts": "photos", "guidance-scale": "-1"}), "step a: --guidance-scale -1"),
        (steps(a={"run": "understand", "dataset": "photos", "max-new-tokens": "0"}), "max-new-tokens 0"),
        (steps(a={"run": "train-vq", "source": "photos"}), "give either --config"),
        (steps(a={"run": "encode", "source": "nowhere"}), "nowhere: no such file or folder, and no step makes it"),
        (steps(a={"run": "encode", "source": "{0..3}.tar"}), "3}.tar: no such file"),
        (steps(a={"run": "encode", "source": "."}), "holds what the steps write"),
        (steps(a={"run": "encode", "source": "photos", "dataset": "elsewhere"}), "it writes to p/a"),
        (
            steps(a={"run": "sft", "datasets": ["${b}"], "zero": "perhaps"}, b={"run": "encode", "source": "photos"}),
            "not",
        ),
        (steps(a={"run": "sft", "datasets": ["photos"], "sample-prompts": "none.txt"}), "none.txt: no such file"),
        ("steps: {a: {run: verify}, a: {run: verify}}", "'a' stands twice"),
        ("steps: {a: {run: encode, source: x, source: y}}", "'source' stands twice"),
        (steps(a={"run": "encode", "source": "photos", "unit-rows": "1", "unit_rows": "2"}), "unit_rows stands twice"),
        ("steps: {a: {run: [encode]}}", "expected `run: COMMAND`"),
        ("steps: {a: {run: encode, source: {b: c}}}", "source: expected a text or a list of texts"),
        ("steps: {a: {run: sft, datasets: []}}", "datasets: expected a text or a list of texts"),
        ("{out: [x], steps: {a: {run: verify}}}", "`out`: expected a folder"),
        ({**CHAIN, "out": "s3://bucket/p"}, "expected a folder of this machine"),
        ({**CHAIN, "variables": {"here": "${later}", "later": "."}}, "later: no such step or variable"),
        (steps(stale={"run": "encode", "source": "photos"}), "expected a name"),
        (steps(a={"run": "encode", "source": "htps://x/y"}), "htps://x/y: cannot be looked at"),
        (steps(a={"run": "encode", "source": "empty"}), "an empty folder; is it mounted"),
        (
            steps(a={"run": "encode", "source": "photos", "vision-tokenizer": "photos"}),
            "step a: photos: expected model.safetensors",
        ),
        (steps(a={"run": "verify", "dataset": "${b}"}), "b: no such step or variable"),
        (
            steps(a={"run": "decode", "dataset": "${b}"}, b={"run": "generate", "prompts": "${a}"}),
            "in a circle",
        ),
    ],
)
def test_what_cannot_work_is_refused(described: object, match: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=match):
        load(described)


@pytest.mark.parametrize("command", ["decode", "inspect", "understand", "init-lm"])
def test_codes_of_two_tokenizers_are_refused(command: str, folder: Path, golden_vq: Path) -> None:
    """The embedded one's for what does not say; `init-lm` makes a model of the codes it gets."""
    encode = {"run": "encode", "source": "photos", "vision-tokenizer": str(golden_vq)}
    others: dict[str, dict[str, object]] = {"b": {"run": command, "dataset": "${a}"}}
    if command == "init-lm":
        others["c"] = {"run": "generate", "prompts": "photos", "model": "${b}"}
        assert load(steps(a=encode, **others))
        others["d"] = {"run": "decode", "dataset": "${c}"}
    with pytest.raises(UsageError, match=r"codes of two vision tokenizers come together: .* of .*emu3-tiny"):
        load(steps(a=encode, **others))


def test_codes_on_disk_are_asked_whose_they_are(folder: Path, golden_vq: Path) -> None:
    settings = EncodeOptions("", "", vision_tokenizer=str(golden_vq)).recorded()
    (folder / "codes").mkdir()
    freeze_plan(folder / "codes/plan.arrow", [], settings, 0)
    tuned = {"run": "sft", "datasets": ["codes,weight=2"]}
    with pytest.raises(UsageError, match=r"two vision tokenizers come together: .* of codes"):
        load(steps(a=tuned))
    assert load(steps(a={"run": "decode", "dataset": "codes", "vision-tokenizer": str(golden_vq)}))


def test_a_tokenizer_made_on_the_way_is_one_of_its_own(folder: Path) -> None:
    made = {"run": "train-vq", "source": "photos", "config": "photos/one.png"}
    encode = {"run": "encode", "source": "photos", "vision-tokenizer": "${made}"}
    decode = {"run": "decode", "dataset": "${codes}", "vision-tokenizer": "${made}"}
    assert load(steps(made=made, codes=encode, pictures=decode))
    decode["vision-tokenizer"] = "${other}"
    with pytest.raises(UsageError, match="step other of p/other"):
        load(steps(made=made, other=made, codes=encode, pictures=decode))


def test_only_codes_carry_a_tokenizer_on(folder: Path, golden_vq: Path, small_lm: Path) -> None:
    """Not pictures, nor captions, nor answers."""
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
    with pytest.raises(UsageError, match="step tuned: codes of two"):
        load(steps(codes=codes, tuned={"run": "sft", "datasets": ["${codes}"], "model": str(small_lm)}))


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


def test_values_mean_what_is_written(folder: Path) -> None:
    """A ratio is no number of base sixty, a flag may be a variable."""
    described = "steps: {a: {run: generate, prompts: photos, ratio: 16:9, greedy: '${plain}'}}\nvariables: {plain: yes}"
    assert load(described).steps[0].arguments[1:4] == ("--greedy", "--ratio", "16:9")
    assert "--greedy" not in load(described, {"plain": "false"}).steps[0].arguments


def test_a_place_that_a_step_makes_is_waited_for_however_it_is_spelled(folder: Path) -> None:
    pipeline = load(
        steps(
            again={"run": "decode", "dataset": f"{folder}/p/codes"},
            codes={"run": "encode", "source": "photos"},
        )
    )
    assert [step.name for step in pipeline.steps] == ["codes", "again"]
    assert pipeline.steps[1].needs == ("codes",)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_examples_are_sound_but_for_the_users_files(path: Path, folder: Path, golden_vq: Path) -> None:
    names = yaml.safe_load(path.read_text())["variables"]
    for name, place in names.items():
        if name != "steps" and not place.startswith("$") and not Path(place).exists():
            Path(place).symlink_to(golden_vq if name == "tokenizer" else folder / "photos")
    assert len(load_pipeline(path.stem, {}, None, main).steps) > 2


class Worker:
    """Stands in for the commands: writes a file into each step's output and notes the order."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: str | None = None

    def __call__(self, step: Step, stop: StopFlag) -> None:
        self.ran.append(step.name)
        if step.name == self.fails:
            raise StepFailed(f"step {step.name} failed", 1)
        if step.output is not None:
            step.output.mkdir(parents=True, exist_ok=True)
            (step.output / "made").write_text(" ".join(step.arguments))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(runner, "_run", worker)
    monkeypatch.setattr(runner, "_check_complete", lambda step: None)
    return worker


def ran(worker: Worker, pipeline: Pipeline, start_from: str | None = None) -> Sequence[str]:
    worker.ran.clear()
    run_pipeline(pipeline, start_from, lambda text: None)
    return list(worker.ran)


def test_only_what_is_not_done_or_has_changed_runs(folder: Path, worker: Worker) -> None:
    assert ran(worker, load(CHAIN)) == ["codes", "pictures"]
    assert ran(worker, load(CHAIN)) == []
    assert ran(worker, load(CHAIN, {"pictures.format": "webp"})) == ["pictures"]
    assert (folder / "p/stale/pictures-0/pictures/made").is_file()
    (folder / "photos/one.png").write_bytes(b"another")
    assert ran(worker, load(CHAIN, {"pictures.format": "webp"})) == ["codes", "pictures"]
    assert ran(worker, load(CHAIN, {"pictures.format": "webp"}), "pictures") == ["pictures"]
    assert len(list((folder / "p/stale").iterdir())) == 4


def test_codes_are_kept_when_files_are_added(folder: Path, worker: Worker) -> None:
    """The command takes in what is new, also if it was stopped before; what needs it is done again."""
    ran(worker, load(CHAIN))
    (folder / "photos/two.png").write_bytes(b"another")
    assert [state.state for state in plan_steps(load(CHAIN))] == ["grown", "changed"]
    worker.fails = "codes"
    with pytest.raises(StepFailed):
        ran(worker, load(CHAIN))
    worker.fails = None
    assert [state.state for state in plan_steps(load(CHAIN))] == ["unfinished", "changed"]
    (folder / "photos/three.png").write_bytes(b"a third")
    assert ran(worker, load(CHAIN)) == ["codes", "pictures"]
    assert [path.name for path in (folder / "p/stale").iterdir()] == ["pictures-0"]
    (folder / "photos/two.png").unlink()
    assert [state.state for state in plan_steps(load(CHAIN))] == ["changed", "changed"]
    (folder / "photos/four.png").write_bytes(b"a fourth")
    assert [state.state for state in plan_steps(load(CHAIN, {"codes.resize": "area"}))] == ["changed", "changed"]


def test_captions_that_are_added_are_no_growth(folder: Path, worker: Worker) -> None:
    """The command would not take them in."""
    ran(worker, load(CHAIN))
    for name in ("one.txt", "metadata.jsonl"):
        (folder / "photos" / name).write_text("a caption")
        assert plan_steps(load(CHAIN))[0].state == "changed"
        (folder / "photos" / name).unlink()
    (folder / "photos/walk.frames").mkdir()
    (folder / "photos/walk.frames/0.png").write_bytes(b"frame")
    (folder / "photos/two.png").write_bytes(b"another")
    (folder / "photos/two.txt").write_text("its caption")
    assert plan_steps(load(CHAIN))[0].state == "grown"
    ran(worker, load(CHAIN))
    (folder / "photos/walk.frames/1.png").write_bytes(b"frame")
    assert plan_steps(load(CHAIN))[0].state == "changed"


def test_what_is_encoded_from_other_steps_is_not_kept_when_those_have_changed(folder: Path, worker: Worker) -> None:
    described = steps(**CHAIN["steps"], again={"run": "encode", "source": "${pictures}"})
    described["variables"] = CHAIN["variables"]
    ran(worker, load(described))
    (folder / "photos/one.png").write_bytes(b"another picture")
    assert ran(worker, load(CHAIN)) == ["codes", "pictures"]
    assert [state.state for state in plan_steps(load(described))] == ["done", "done", "changed"]


def test_an_output_of_unknown_making_is_set_aside(folder: Path, worker: Worker) -> None:
    ran(worker, load(CHAIN))
    (folder / "p/.pipeline/codes.json").write_text("{}")
    assert ran(worker, load(CHAIN)) == ["codes", "pictures"]
    assert (folder / "p/stale/codes-0/codes/made").is_file()


def test_a_folder_that_cannot_be_listed_is_refused(
    folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are not taken for removed ones."""
    ran(worker, load(CHAIN))
    (folder / "photos/closed").mkdir()
    listed = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(UsageError, match="closed: cannot be listed: Permission denied"):
        plan_steps(load(CHAIN))


def test_the_table_also_ends_a_run_that_fails(folder: Path, worker: Worker) -> None:
    worker.fails = "codes"
    said: list[str] = []
    with pytest.raises(StepFailed):
        run_pipeline(load(CHAIN), None, said.append)
    assert [line.split()[:4] for line in said[-1].splitlines()] == [
        ["codes", "encode", "not", "done"],
        ["pictures", "decode", "not", "begun"],
    ]


def test_a_step_that_failed_is_gone_on_with_where_it_stands(folder: Path, worker: Worker) -> None:
    worker.fails = "pictures"
    with pytest.raises(StepFailed):
        ran(worker, load(CHAIN))
    (folder / "p/pictures").mkdir()
    worker.fails = None
    assert [state.state for state in plan_steps(load(CHAIN))] == ["done", "unfinished"]
    assert ran(worker, load(CHAIN)) == ["pictures"]
    assert not (folder / "p/stale").exists()


def test_how_a_step_is_done_may_change(folder: Path, worker: Worker) -> None:
    assert ran(worker, load(CHAIN)) == ["codes", "pictures"]
    assert ran(worker, load(CHAIN, {"codes.workers": "4", "codes.engine": "local"})) == []


def test_done_again_from_a_step_on_once_though_it_is_stopped(folder: Path, worker: Worker) -> None:
    """Neither is the first step done twice, nor what needs it left as it was."""
    ran(worker, load(CHAIN))
    worker.fails = "pictures"
    with pytest.raises(StepFailed):
        ran(worker, load(CHAIN), "codes")
    assert worker.ran == ["codes", "pictures"]
    assert [state.state for state in plan_steps(load(CHAIN))] == ["done", "unfinished"]
    worker.fails = None
    assert ran(worker, load(CHAIN), "codes") == ["pictures"]
    assert ran(worker, load(CHAIN), "codes") == ["codes", "pictures"]


def test_killed_while_it_sets_aside_it_begins_from_the_step_again(
    folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(worker, load(CHAIN))
    original = runner._set_aside

    def killed(pipeline: Pipeline, step: Step) -> None:
        if step.name == "pictures":
            raise KeyboardInterrupt
        original(pipeline, step)

    monkeypatch.setattr(runner, "_set_aside", killed)
    with pytest.raises(KeyboardInterrupt):
        ran(worker, load(CHAIN), "codes")
    monkeypatch.setattr(runner, "_set_aside", original)
    assert ran(worker, load(CHAIN), "codes") == ["codes", "pictures"]
    assert len(list((folder / "p/stale").iterdir())) == 2


def test_files_of_a_pattern_are_watched(folder: Path, worker: Worker) -> None:
    (folder / "0.tar").write_bytes(b"shard")
    described = steps(codes={"run": "encode", "source": "*.tar"})
    assert ran(worker, load(described)) == ["codes"]
    assert ran(worker, load(described)) == []
    (folder / "1.tar").write_bytes(b"another")
    assert ran(worker, load(described)) == ["codes"]


def test_two_runs_in_one_place_are_refused(folder: Path, worker: Worker) -> None:
    (folder / "p/.pipeline").mkdir(parents=True)
    claim = try_lock(folder / "p/.pipeline/lock")
    assert claim is not None
    with pytest.raises(UsageError, match="another `emu3 run` works here"):
        ran(worker, load(CHAIN))
    claim.release()
    assert ran(worker, load(CHAIN)) == ["codes", "pictures"]


def test_a_lost_output_is_made_again(folder: Path, worker: Worker) -> None:
    ran(worker, load(CHAIN))
    (folder / "p/codes").rename(folder / "elsewhere")
    assert ran(worker, load(CHAIN))[0] == "codes"


def test_dry_run_changes_nothing(folder: Path) -> None:
    load(CHAIN)
    result = CliRunner().invoke(main, ["run", "p.yaml", "--dry-run"])
    assert (result.exit_code, result.output.count("new  ")) == (0, 2)
    assert not (folder / "p").exists()
    assert CliRunner().invoke(main, ["run", "p.yaml", "--from", "nothing"]).exit_code == 2
    assert CliRunner().invoke(main, ["run", "p.yaml", "--set", "nothing"]).exit_code == 2


def test_a_real_run_stopped_and_resumed(picture_folder: Path, golden_vq: Path, tmp_path: Path) -> None:
    """SIGTERM to the run stops the step under way; the same command ends with the page."""
    options = dict(zip(ENCODE[::2], ENCODE[1::2]))
    encode = {name.removeprefix("--"): value for name, value in options.items()}
    described = {
        "codes": {"run": "encode", "source": str(picture_folder), "unit-rows": 2, **encode},
        "checked": {"run": "verify", "dataset": "${codes}"},
        "pictures": {"run": "decode", "dataset": "${codes}", "vision-tokenizer": str(golden_vq)},
    }
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"steps": described}))
    command = [sys.executable, "-m", "pipelines.cli", "run", str(path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out/codes/parts").is_dir():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] is not None
    assert process.returncode in (INTERRUPTED, 0)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pictures  decode" in done.stderr
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 12
    assert "caption 3" in page
    assert "http" not in page.replace("data:", "")
    assert json.loads((tmp_path / "out/.pipeline/pictures.json").read_text())["done"]
