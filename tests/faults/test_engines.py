"""Jobs in several processes give one digest, whatever the engine, the number of workers, the kills and the ranks."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from shared.dataset.dataset import Dataset
from tests.support.command import (
    ENCODE,
    ENCODER,
    INTERRUPTED,
    MODEL,
    SMALL_UNITS,
    assert_rows_once,
    finish,
    leftovers,
    start,
    start_module,
    verified_digest,
    wait_until,
)
from tests.support.gate import Gate
from tests.support.pictures import PICTURES, save_picture
from tests.support.stand_in import KILLER

Start = Callable[..., "subprocess.Popen[str]"]
Ranks = list[tuple[tuple[object, ...], dict[str, str]]]  # flags and environment variables of each

HERE = ("--engine", "here")
RAY = ("--engine", "ray", "--workers", 2)
RANKS: dict[str, Ranks] = {
    "flags": [(("--rank", rank, "--world-size", 2), {}) for rank in range(2)],
    "slurm step": [((), {"SLURM_PROCID": str(rank), "SLURM_NTASKS": "2"}) for rank in range(2)],
}
START_OF_SCAN = b"\xff\xda"  # of a JPEG file
IMAGE = ("--height", 32, "--width", 64, "--batch-size", 2, "--unit-rows", 2, "--journal-rows", 1)


def start_real(pictures: Path, dataset: Path, *options: object, **variables: str) -> subprocess.Popen[str]:
    return start("encode", pictures, dataset, *ENCODE, *SMALL_UNITS, *options, **ENCODER, **variables)


def start_stand_in(pictures: Path, dataset: Path, *options: object, **variables: str) -> subprocess.Popen[str]:
    """Start `emu3 encode` with the worker of `stand_in`."""
    command = ("encode", pictures, dataset, *ENCODE, *SMALL_UNITS, *options)
    return start_module("tests.support.stand_in", *command, **variables)


def succeed(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    done = finish(process)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the worker processes of a command, of the local engine or of Ray, oldest first."""
    found = []
    try:
        for child in psutil.Process(process.pid).children(recursive=True):
            command = " ".join(child.cmdline())
            if "--multiprocessing-fork" in command or command.startswith("ray::_WorkerActor"):
                found.append(child)
    except psutil.NoSuchProcess:
        pass  # it ended in the meantime
    return sorted(found, key=psutil.Process.create_time)


def committed(dataset: Path) -> int:
    return len(Dataset(dataset).committed_units())


def has_committed(dataset: Path, units: int, process: subprocess.Popen[str]) -> bool:
    """Whether some units are committed or the command has succeeded."""
    return committed(dataset) >= units or process.poll() == 0


def kill_workers(process: subprocess.Popen[str], dataset: Path, at_units: list[int], seed: int = 0) -> int:
    """Kill one of the oldest workers at each of these numbers of committed units. Return the number of kills."""
    chance, kills = random.Random(seed), 0
    for units in at_units:
        wait_until(partial(has_committed, dataset, units, process), process)
        time.sleep(chance.uniform(0, 0.05))
        workers = workers_of(process)
        if workers:
            chance.choice(workers[: (len(workers) + 1) // 2]).kill()
            kills += 1
    return kills


def commit_units(units: int, gate: Gate, dataset: Path, process: subprocess.Popen[str]) -> None:
    """Let workers pass the gate until this many units are committed."""

    def has_committed_units() -> bool:
        if committed(dataset) >= units:
            return True
        gate.admit_one()
        return False

    wait_until(has_committed_units, process)


def assert_is(dataset: Path, digest: str) -> None:
    """Check that a dataset is complete and undamaged, has this digest and no leftovers."""
    assert verified_digest(dataset) == digest
    assert_rows_once(dataset, PICTURES)
    assert leftovers(dataset) == []


@pytest.fixture(scope="module")
def stand_in_digest(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of an undisturbed run in one process."""
    dataset = tmp_path_factory.mktemp("stand-in") / "dataset"
    succeed(start_stand_in(pictures, dataset, *HERE))
    return verified_digest(dataset)


def test_a_worker_is_killed_and_started_again(pictures: Path, unbroken_digest: str, tmp_path: Path) -> None:
    """With the model; several workers are killed below, with stand-ins for it."""
    process = start_real(pictures, tmp_path / "dataset", "--workers", 1)
    kills = kill_workers(process, tmp_path / "dataset", at_units=[1])
    done = succeed(process)
    assert kills == done.stderr.count("died (exit code -9); restarting it") == 1
    assert_is(tmp_path / "dataset", unbroken_digest)


def test_two_actors_of_ray_one_of_them_killed(pictures: Path, stand_in_digest: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    dataset, gate = tmp_path / "dataset", Gate(tmp_path / "gate")
    process = start_stand_in(pictures, dataset, *RAY, **gate.environment)
    commit_units(2, gate, dataset, process)
    workers_of(process)[0].kill()
    gate.open()
    assert succeed(process).stderr.count("died; starting another one in its place") == 1
    assert_is(dataset, stand_in_digest)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--workers", 8), ("--workers", 2), RAY], ids=["eight", "two", "ray"])
@pytest.mark.parametrize("kills", [0, 5])
def test_many_workers_many_kills(
    options: tuple[object, ...], kills: int, pictures: Path, unbroken_digest: str, tmp_path: Path
) -> None:
    process = start_real(pictures, tmp_path / "dataset", *options)
    killed = kill_workers(process, tmp_path / "dataset", [2 * number + 1 for number in range(kills)], seed=kills)
    succeed(process)
    assert min(kills, 1) <= killed <= kills
    assert_is(tmp_path / "dataset", unbroken_digest)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_workers_killed_at_many_moments(seed: int, pictures: Path, stand_in_digest: str, tmp_path: Path) -> None:
    """Workers wait at the gate when one of them is killed, so every kill finds one alive and none comes too late."""
    dataset, gate, chance = tmp_path / "dataset", Gate(tmp_path / "gate"), random.Random(seed)
    process = start_stand_in(pictures, dataset, "--workers", 3, **gate.environment)
    for units in (1, 3, 5, 8):
        commit_units(units, gate, dataset, process)
        wait_until(lambda: bool(workers_of(process)), process)
        chance.choice(workers_of(process)).kill()
    gate.open()
    assert succeed(process).stderr.count("restarting it") == 4
    assert_is(dataset, stand_in_digest)


@pytest.mark.parametrize(
    ("first", "then"), [(("--workers", 3), HERE), (HERE, ("--workers", 2))], ids=["to fewer", "to more"]
)
def test_stopped_by_sigterm_and_resumed_by_another_number_of_workers(
    first: tuple[object, ...], then: tuple[object, ...], pictures: Path, stand_in_digest: str, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    gate = Gate(tmp_path / "gate")
    process = start_stand_in(pictures, dataset, *first, **gate.environment)
    commit_units(3, gate, dataset, process)
    process.terminate()
    stopped = finish(process)
    assert stopped.returncode == INTERRUPTED, stopped.stderr[-2000:]
    assert "stopped by SIGTERM" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    before = committed(dataset)
    assert 3 <= before < PICTURES // 2
    assert f"{PICTURES - 2 * before} rows encoded" in succeed(start_stand_in(pictures, dataset, *then)).stderr
    assert_is(dataset, stand_in_digest)


def test_killed_and_run_again_at_once_beside_workers_without_a_parent(
    pictures: Path, stand_in_digest: str, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    process = start_stand_in(pictures, dataset, "--workers", 2)
    wait_until(lambda: committed(dataset) >= 2, process)
    process.kill()
    succeed(start_stand_in(pictures, dataset, "--workers", 2))
    finish(process)  # its pipes stay open until the last of its workers exits
    assert verified_digest(dataset) == stand_in_digest
    assert_rows_once(dataset, PICTURES)


@pytest.mark.parametrize("ranks", RANKS.values(), ids=RANKS)
def test_two_ranks_do_each_unit_once(ranks: Ranks, pictures: Path, stand_in_digest: str, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    processes = [start_stand_in(pictures, dataset, *flags, **variables) for flags, variables in ranks]
    texts = [succeed(process).stderr for process in processes]
    assert sum(int(re.findall(r"(\d+) rows encoded", text)[0]) for text in texts) == PICTURES
    # ranks leave tidying to a job without ranks
    assert "0 rows encoded" in succeed(start_stand_in(pictures, dataset, *HERE)).stderr
    assert_is(dataset, stand_in_digest)


def kill_the_first_rank(launch: Start, ranks: Ranks, pictures: Path, dataset: Path) -> None:
    """Start two ranks of two workers; kill the command of the first one when a unit of its share is committed."""
    processes = [launch(pictures, dataset, "--workers", 2, *flags, **variables) for flags, variables in ranks]
    wait_until(lambda: any(unit % 2 == 0 for unit in Dataset(dataset).committed_units()), processes[0])
    processes[0].kill()
    succeed(processes[1])
    finish(processes[0])
    assert_rows_once(dataset, PICTURES)


def test_a_rank_that_was_killed_leaves_its_share_to_the_other(
    pictures: Path, stand_in_digest: str, tmp_path: Path
) -> None:
    kill_the_first_rank(start_stand_in, RANKS["flags"], pictures, tmp_path / "dataset")
    assert verified_digest(tmp_path / "dataset") == stand_in_digest


@pytest.mark.slow
def test_a_rank_that_was_killed_leaves_its_share_to_the_other_once_its_leases_have_expired(
    pictures: Path, unbroken_digest: str, tmp_path: Path
) -> None:
    kill_the_first_rank(start_real, RANKS["slurm step"], pictures, tmp_path / "dataset")
    assert verified_digest(tmp_path / "dataset") == unbroken_digest


def test_exactly_the_pictures_that_kill_their_worker_are_quarantined(pictures: Path, tmp_path: Path) -> None:
    """Two of sixteen pictures kill their worker, in different units."""
    killers = (0, 15)
    source, dataset = tmp_path / "pictures", tmp_path / "dataset"
    source.mkdir()
    for number in range(16):
        name = f"{KILLER}-{number:02d}" if number in killers else f"picture-{number:02d}"
        shutil.copy(pictures / f"picture-{number:02d}.png", source / f"{name}.png")
    succeed(start_stand_in(source, dataset, "--workers", 2))
    opened = Dataset.open(dataset)
    records = list(opened.commit_records())
    refused = [refusal for record in records for refusal in opened.refusals(record)]
    assert {refusal.key for refusal in refused} == {f"{KILLER}-{number:02d}" for number in killers}
    assert {refusal.reason for refusal in refused} == {"worker_died"}
    rows = sorted(row.key for record in records for row in opened.rows(record))
    assert rows == [f"picture-{number:02d}" for number in range(16) if number not in killers]
    assert verified_digest(dataset)
    assert leftovers(dataset) == []


def pictures_in(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*.png"))}


LAUNCHES = [
    pytest.param(partial(start_module, "tests.support.stand_in"), id="stand-in"),
    pytest.param(start, id="real", marks=pytest.mark.slow),  # models are tested with one process
]


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "killed"])
def test_decode_by_two_workers_gives_the_same_files(
    launch: Start, is_killed: bool, unbroken: Path, tmp_path: Path
) -> None:
    options, two, gate = (*MODEL, "--batch-pixels", 1), tmp_path / "two", Gate(tmp_path / "gate")
    process = launch("decode", unbroken, two, *options, "--workers", 2, **gate.environment)
    if is_killed:
        gate.admit_one()
        wait_until(lambda: bool(pictures_in(two)), process)
        workers_of(process)[0].kill()
    gate.open()
    assert succeed(process).stderr.count("restarting it") == is_killed
    succeed(launch("decode", unbroken, tmp_path / "one", *options))
    assert len(pictures_in(tmp_path / "one")) == PICTURES
    assert pictures_in(two) == pictures_in(tmp_path / "one")
    assert leftovers(two) == []


@pytest.mark.parametrize("launch", LAUNCHES)
def test_generate_by_two_workers_one_of_them_killed_gives_the_same_digest(
    launch: Start, small_lm: Path, tmp_path: Path
) -> None:
    prompts, two, gate = tmp_path / "prompts.jsonl", tmp_path / "two", Gate(tmp_path / "gate")
    prompts.write_text("".join(json.dumps({"key": f"k{n}", "prompt": "an apple " * n + "!"}) + "\n" for n in range(8)))
    options = ("--model", small_lm, *IMAGE)
    process = launch("generate", prompts, two, *options, "--workers", 2, **gate.environment)
    commit_units(1, gate, two, process)
    workers_of(process)[0].kill()
    gate.open()
    assert "restarting it" in succeed(process).stderr
    succeed(launch("generate", prompts, tmp_path / "one", *options))
    assert verified_digest(two) == verified_digest(tmp_path / "one")
    assert_rows_once(two, 8)
    assert leftovers(two) == []


def last_line(process: subprocess.Popen[str], exit_code: int) -> str:
    done = finish(process)
    assert done.returncode == exit_code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stderr.strip().rpartition("emu3 encode: ")[2]


def test_a_missing_device_is_reported_by_the_command(pictures: Path, tmp_path: Path) -> None:
    process = start_real(pictures, tmp_path / "dataset", "--workers", 1, "--device", "ascend")
    text = "device ascend: no NPU found; check npu-smi and CANN, or use --device cpu"
    assert last_line(process, exit_code=2) == text


def test_different_numerics_are_reported_by_the_command(pictures: Path, unbroken: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(unbroken, dataset)
    Dataset(dataset).record_path(5).unlink()
    text = last_line(start_real(pictures, dataset, "--workers", 1, "--batch-pixels", 384), exit_code=2)
    assert "created with different numerics" in text
    assert "numerics.batch_pixels: recorded 768, given 384" in text
    assert text == last_line(start_real(pictures, dataset, *HERE, "--batch-pixels", 384), exit_code=2)
    assert committed(dataset) == PICTURES // 2 - 1


def test_a_job_stopped_by_a_worker_is_reported_by_the_command(tmp_path: Path) -> None:
    """The headers of these pictures are valid; their pixels are missing."""
    source = tmp_path / "pictures"
    for number in range(8):
        path = source / f"{number}.jpg"
        save_picture(path, number)
        header, mark, pixels = path.read_bytes().partition(START_OF_SCAN)
        path.write_bytes(header + mark + pixels[:12])
    texts = [
        last_line(start_stand_in(source, tmp_path / engine[1], *engine, "--max-refused-in-a-row", 3), exit_code=1)
        for engine in (("--workers", "1"), HERE)
    ]
    assert texts[0].startswith("more than 3 inputs in a row refused, the last: 3.jpg: ")
    assert texts[0] == texts[1]
