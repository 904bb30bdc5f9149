"""Running a pipeline: which steps run, what is set aside, and interrupted runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.workflow import runner
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.runner import StepFailed, run_pipeline
from pipelines.workflow.state import plan_steps
from shared.errors import UsageError
from shared.jobs.file_locks import job_lock, try_lock
from shared.jobs.signals import StopFlag
from tests.support.command import ENCODE, INTERRUPTED, REPOSITORY, environment
from tests.support.small_pipelines import CHAIN, StandInCommands, load, steps, steps_run


def test_only_steps_that_are_not_done_or_have_changed_run(folder: Path, worker: StandInCommands) -> None:
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]
    assert steps_run(worker, load(CHAIN)) == []
    assert steps_run(worker, load(CHAIN, {"pictures.format": "webp"})) == ["pictures"]
    assert (folder / "p/stale/pictures-0/pictures/made").is_file()
    (folder / "photos/one.png").write_bytes(b"another")
    assert steps_run(worker, load(CHAIN, {"pictures.format": "webp"})) == ["codes", "pictures"]
    assert steps_run(worker, load(CHAIN, {"pictures.format": "webp"}), "pictures") == ["pictures"]
    assert len(list((folder / "p/stale").iterdir())) == 4


def test_an_output_without_a_record_is_set_aside(folder: Path, worker: StandInCommands) -> None:
    steps_run(worker, load(CHAIN))
    (folder / "p/.pipeline/codes.json").write_text("{}")
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]
    assert (folder / "p/stale/codes-0/codes/made").is_file()


def test_a_failed_run_also_ends_with_the_table(folder: Path, worker: StandInCommands) -> None:
    worker.fails = "codes"
    lines: list[str] = []
    with pytest.raises(StepFailed):
        run_pipeline(load(CHAIN), None, lines.append)
    assert [line.split()[:4] for line in lines[-1].splitlines()] == [
        ["codes", "encode", "not", "done"],
        ["pictures", "decode", "not", "started"],
    ]


def test_a_failed_step_is_resumed_in_place(folder: Path, worker: StandInCommands) -> None:
    worker.fails = "pictures"
    with pytest.raises(StepFailed):
        steps_run(worker, load(CHAIN))
    (folder / "p/pictures").mkdir()
    worker.fails = None
    assert [state.status.value for state in plan_steps(load(CHAIN))] == ["done", "unfinished"]
    assert steps_run(worker, load(CHAIN)) == ["pictures"]
    assert not (folder / "p/stale").exists()


def test_execution_options_may_change(folder: Path, worker: StandInCommands) -> None:
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]
    others = {"workers": "4", "engine": "local", "max-refused-in-a-row": "9", "update-texts": "true"}
    changes = {f"codes.{name}": value for name, value in others.items()}
    assert steps_run(worker, load(CHAIN, changes)) == []


def test_a_stopped_run_from_a_step_resumes_without_repeating_it(folder: Path, worker: StandInCommands) -> None:
    """The first step runs once, and the steps that need it still run again."""
    steps_run(worker, load(CHAIN))
    worker.fails = "pictures"
    with pytest.raises(StepFailed):
        steps_run(worker, load(CHAIN), "codes")
    assert worker.ran == ["codes", "pictures"]
    assert [state.status.value for state in plan_steps(load(CHAIN))] == ["done", "unfinished"]
    worker.fails = None
    assert steps_run(worker, load(CHAIN), "codes") == ["pictures"]
    assert steps_run(worker, load(CHAIN), "codes") == ["codes", "pictures"]


def test_a_run_killed_while_setting_outputs_aside_starts_from_the_step_again(
    folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_run(worker, load(CHAIN))
    original = runner._set_aside

    def killed(pipeline: Pipeline, name: str, output: Path, stop: StopFlag) -> None:
        if name == "pictures":
            raise KeyboardInterrupt
        original(pipeline, name, output, stop)

    monkeypatch.setattr(runner, "_set_aside", killed)
    with pytest.raises(KeyboardInterrupt):
        steps_run(worker, load(CHAIN), "codes")
    monkeypatch.setattr(runner, "_set_aside", original)
    assert steps_run(worker, load(CHAIN), "codes") == ["codes", "pictures"]
    assert len(list((folder / "p/stale").iterdir())) == 2


def test_files_that_match_a_pattern_are_watched(folder: Path, worker: StandInCommands) -> None:
    (folder / "0.tar").write_bytes(b"shard")
    described = steps(codes={"run": "encode", "source": "*.tar"})
    assert steps_run(worker, load(described)) == ["codes"]
    assert steps_run(worker, load(described)) == []
    (folder / "1.tar").write_bytes(b"another")
    assert steps_run(worker, load(described)) == ["codes"]


def test_two_runs_in_one_folder_are_refused(folder: Path, worker: StandInCommands) -> None:
    (folder / "p/.pipeline").mkdir(parents=True)
    claim = try_lock(folder / "p/.pipeline/lock")
    assert claim is not None
    with pytest.raises(UsageError, match="another `emu3 run` uses this folder"):
        steps_run(worker, load(CHAIN))
    claim.release()
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]


def test_an_output_that_a_job_still_uses_is_not_set_aside(
    folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the job has ended, it is."""
    monkeypatch.setattr(runner, "ORPHAN_S", 0.0)
    steps_run(worker, load(CHAIN))
    with job_lock(folder / "p/codes"), pytest.raises(UsageError, match="p/codes: another process still works in it"):
        steps_run(worker, load(CHAIN, {"codes.resize": "area"}))
    assert (folder / "p/codes/made").is_file()
    assert worker.ran == []
    assert steps_run(worker, load(CHAIN, {"codes.resize": "area"})) == ["codes", "pictures"]
    assert (folder / "p/stale/codes-0/codes/made").is_file()


def test_the_end_of_a_job_that_uses_an_output_is_waited_for(
    folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_run(worker, load(CHAIN))
    with ExitStack() as job:
        job.enter_context(job_lock(folder / "p/codes"))
        monkeypatch.setattr(runner.time, "sleep", lambda seconds: job.close())
        assert steps_run(worker, load(CHAIN, {"codes.resize": "area"})) == ["codes", "pictures"]


def test_a_lost_output_is_made_again(folder: Path, worker: StandInCommands) -> None:
    steps_run(worker, load(CHAIN))
    (folder / "p/codes").rename(folder / "elsewhere")
    assert steps_run(worker, load(CHAIN))[0] == "codes"


def test_dry_run_changes_nothing(folder: Path) -> None:
    load(CHAIN)
    result = CliRunner().invoke(main, ["run", "p.yaml", "--dry-run"])
    assert (result.exit_code, result.output.count("new  ")) == (0, 2)
    assert not (folder / "p").exists()
    assert CliRunner().invoke(main, ["run", "p.yaml", "--from", "nothing"]).exit_code == 2
    assert CliRunner().invoke(main, ["run", "p.yaml", "--set", "nothing"]).exit_code == 2


@pytest.mark.slow  # tests/faults/test_lifecycle.py stops and kills real runs of one step; the page has its own tests
def test_a_real_run_stopped_and_resumed(picture_folder: Path, golden_vq: Path, tmp_path: Path) -> None:
    """SIGTERM stops the running step; the same command then finishes and writes the page."""
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
    deadline = time.monotonic() + 120
    while not (tmp_path / "out/codes/parts").is_dir():
        assert process.poll() is None
        assert time.monotonic() < deadline, "the first step committed nothing"
        time.sleep(0.01)
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
