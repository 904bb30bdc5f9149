"""Commands that start other processes, or work beside them: kills of the parent, signals, and units of other jobs."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from shared.jobs.file_locks import job_lock, try_lock
from tests.support import handmade
from tests.support.command import (
    ENCODE,
    ENCODER,
    INTERRUPTED,
    TOKENIZER,
    assert_rows_once,
    finish,
    leftovers,
    start,
    start_module,
    wait_until,
)
from tests.support.gate import Gate
from tests.support.pictures import PICTURES
from tests.support.stand_in import BLOCKER
from tests.support.toy_results import has_ended
from tests.support.toy_results import wait_until as wait_for
from vq_stage.decode.output_files import CLAIMS_NAME


def run_of_one_step(pictures: Path, folder: Path, *changes: str) -> subprocess.Popen[str]:
    """Start `emu3 run` with a pipeline that encodes pictures into `folder/out/codes`."""
    options = dict(zip((name.removeprefix("--") for name in ENCODE[::2]), ENCODE[1::2]))
    step = {"run": "encode", "source": str(pictures), "unit-rows": 2, **options}
    (folder / "p.yaml").write_text(yaml.safe_dump({"steps": {"codes": step}}))
    return start("run", folder / "p.yaml", "--out", folder / "out", *changes, **ENCODER)


def committed(dataset: Path) -> int:
    return len(Dataset(dataset).committed_units())


@pytest.mark.usefixtures("unbroken")  # its graph is used again
def test_a_killed_run_takes_its_command_along_and_other_options_start_anew(pictures: Path, tmp_path: Path) -> None:
    """The command is suspended when the run is killed, so it has units left, and does not end by itself."""
    codes = tmp_path / "out/codes"
    process = run_of_one_step(pictures, tmp_path)
    wait_until(lambda: committed(codes) >= 1, process)
    child = next(one for one in psutil.Process(process.pid).children() if "encode" in one.cmdline())
    child.suspend()
    process.kill()
    wait_for(lambda: has_ended(child.pid))
    finish(process)
    done = finish(run_of_one_step(pictures, tmp_path, "--set", "codes.unit-rows=3"))
    assert done.returncode == 0, done.stderr[-2000:]
    dataset = Dataset.open(codes)
    plan, records = dataset.plan(), list(dataset.commit_records())
    assert [record.unit for record in records] == list(range(len(plan)))
    assert {record.plan_sha256 for record in records} == {plan.sha256}
    assert max(record.rows for record in records) == 3
    assert (tmp_path / "out/stale/codes-0/codes/plan.arrow").is_file()


@pytest.mark.usefixtures("unbroken")
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)],  # one handler, whose signals have their test
)
def test_a_signal_to_a_run_alone_stops_its_command(number: signal.Signals, pictures: Path, tmp_path: Path) -> None:
    process = run_of_one_step(pictures, tmp_path)
    wait_until(lambda: committed(tmp_path / "out/codes") >= 1, process)
    child = next(one for one in psutil.Process(process.pid).children() if "encode" in one.cmdline())
    process.send_signal(number)
    done = finish(process)
    assert done.returncode in (INTERRUPTED, 0), done.stderr[-2000:]  # 0 if everything was done already
    assert has_ended(child.pid)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("interrupts", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_ctrl_c_ends_a_job_and_its_workers_however_often_it_is_pressed(
    interrupts: int, pictures: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    command = ("encode", pictures, tmp_path / "codes", *ENCODE, "--unit-rows", 2, "--workers", 2)
    process = start_module("tests.support.stand_in", *command, **gate.environment)

    def has_committed() -> bool:
        gate.admit_one()
        return committed(tmp_path / "codes") >= 1

    wait_until(has_committed, process)
    children = psutil.Process(process.pid).children(recursive=True)
    for _ in range(interrupts):
        process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.returncode == INTERRUPTED, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    wait_for(lambda: all(has_ended(child.pid) for child in children))


@pytest.mark.parametrize("engine", [("--engine", "here"), ("--workers", "1")], ids=["here", "local"])
def test_a_signal_ends_a_job_whose_readers_are_blocked_and_a_time_limit_refuses_the_input(
    engine: tuple[str, ...], pictures: Path, tmp_path: Path
) -> None:
    """The only reader thread is blocked, and what was committed before stays."""
    source, dataset = tmp_path / "pictures", tmp_path / "codes"
    source.mkdir()
    for number in range(5):
        name = BLOCKER if number == 4 else f"a-{number}"
        shutil.copy(pictures / f"picture-{number:02d}.png", source / f"{name}.png")
    options = (*ENCODE, "--unit-rows", 2, "--reader-threads", 1, *engine)
    process = start_module("tests.support.stand_in", "encode", source, dataset, *options)
    wait_until(lambda: committed(dataset) == 2, process)
    process.terminate()
    stopped = finish(process)
    assert stopped.returncode == INTERRUPTED, stopped.stderr[-2000:]
    assert "stopped by SIGTERM" in stopped.stderr
    assert committed(dataset) == 2
    limited = ("encode", source, tmp_path / "limited", *options, "--read-timeout", 3)
    done = finish(start_module("tests.support.stand_in", *limited))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 rows encoded, 1 quarantined" in done.stderr
    assert "read_timeout (1)" in done.stderr


@pytest.mark.slow
def test_a_suspended_worker_costs_its_units_a_second_attempt_and_nothing_else(pictures: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    command = ("encode", pictures, tmp_path / "codes", *ENCODE, "--unit-rows", 2, "--workers", 2)
    process = start_module("tests.support.stand_in", *command, **gate.environment)

    def has_committed() -> bool:
        gate.admit_one()
        return committed(tmp_path / "codes") >= 2

    wait_until(has_committed, process)
    children = psutil.Process(process.pid).children()
    next(one for one in children if "--multiprocessing-fork" in " ".join(one.cmdline())).suspend()
    gate.open()
    done = finish(process)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "has been suspended for 15 s; killing it and starting it again" in done.stderr
    assert_rows_once(tmp_path / "codes", PICTURES)
    assert leftovers(tmp_path / "codes") == []


@contextmanager
def claimed(root: Path, claims: Path, units: int) -> Iterator[None]:
    """Hold the claims of all units, as another job on this machine does."""
    with job_lock(root), ExitStack() as held:
        for unit in range(units):
            lock = try_lock(claims / f"part-{unit:06d}")
            assert lock is not None
            held.callback(lock.release)
        yield


def assert_left_to_others(units: int, *arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == INTERRUPTED, result.output
    assert f"other jobs are still working on {units} units" in result.output


def test_commands_that_leave_units_to_other_jobs_exit_with_75(pictures: Path, small_lm: Path, tmp_path: Path) -> None:
    """No model is loaded, because there is nothing to compute."""
    with claimed(tmp_path / "codes", tmp_path / "codes/claims", 16):
        assert_left_to_others(16, "encode", pictures, tmp_path / "codes", *ENCODE, "--unit-rows", 2)
    (tmp_path / "prompts.txt").write_text("an apple\na pear\n")
    size = ("--height", 32, "--width", 64, "--unit-rows", 1)
    with claimed(tmp_path / "tokens", tmp_path / "tokens/claims", 2):
        generate = ("generate", tmp_path / "prompts.txt", tmp_path / "tokens", "--model", small_lm, *size)
        assert_left_to_others(2, *generate)
    dataset = handmade.make(tmp_path / "handmade")
    with claimed(tmp_path / "out", tmp_path / "out" / CLAIMS_NAME, 1):
        assert_left_to_others(1, "decode", dataset.root, tmp_path / "out", "--vision-tokenizer", TOKENIZER)
    assert CliRunner().invoke(main, ["export", str(dataset.root), str(tmp_path / "tars")]).exit_code == 0
    with claimed(tmp_path / "imported", tmp_path / "imported/claims", 1):
        assert_left_to_others(1, "import", tmp_path / "tars", tmp_path / "imported")
