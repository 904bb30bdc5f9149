"""`emu3 encode` in processes of its own: bad pictures, SIGKILL, SIGTERM, SIGINT, and several jobs at once."""

from __future__ import annotations

import importlib.metadata
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.dataset.dataset import Dataset
from shared.dataset.partial import load_partial
from tests.support.bad_pictures import fill_folder
from tests.support.command import (
    ENCODE,
    ENCODER,
    INTERRUPTED,
    ONE_UNIT,
    SMALL_UNITS,
    assert_rows_once,
    encode,
    finish,
    leftovers,
    start,
    start_module,
    verified_digest,
    wait_until,
)
from tests.support.gate import Gate
from tests.support.paused import PausedCommand
from tests.support.pictures import PICTURES

UNITS = PICTURES // 2
MINDSPORE = importlib.metadata.version("mindspore")
NUMERICS = {"backend": "native", "batch_pixels": 768, "device": "CPU", "dtype": "float32", "mindspore": MINDSPORE}


def start_encode(pictures: Path, dataset: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    return start("encode", pictures, dataset, *ENCODE, *(options or SMALL_UNITS), **ENCODER, **variables)


def committed(dataset: Path) -> int:
    return len(Dataset(dataset).committed_units())


def rows_and_reasons(dataset: Path) -> tuple[list[str], dict[str, str]]:
    """Return the URIs of the rows, and the reason of every quarantined URI."""
    opened = Dataset.open(dataset)
    records = list(opened.commit_records())
    refusals = [refusal for record in records for refusal in opened.refusals(record)]
    assert len({refusal.uri for refusal in refusals}) == len(refusals), "an input was quarantined twice"
    rows = [row.src_uri for record in records for row in opened.rows(record)]
    return rows, {refusal.uri: refusal.reason for refusal in refusals}


def test_every_bad_picture_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    expected = fill_folder(tmp_path / "pictures")
    dataset = tmp_path / "dataset"
    done = encode(tmp_path / "pictures", dataset)
    rows, reasons = rows_and_reasons(dataset)
    assert sorted(rows) == sorted(uri for uri, reason in expected.items() if reason is None)
    allowed = {uri: reason for uri, reason in expected.items() if reason is not None}
    assert set(reasons) == set(allowed)
    wrong = {uri: (reason, allowed[uri]) for uri, reason in reasons.items() if reason not in allowed[uri].split("|")}
    assert not wrong, "uri: (found, allowed)"
    assert f"{len(rows)} rows encoded, {len(reasons)} quarantined" in done.stderr
    assert verified_digest(dataset)
    assert leftovers(dataset) == []


def kill_before(pattern: str, number: int, pictures: Path, dataset: Path) -> None:
    """Run an encode and kill it right before it makes a change to the dataset (see `tests.support.paused`)."""
    pause = dataset.with_name("pause")
    command = ("encode", pictures, dataset, *ENCODE, *SMALL_UNITS)
    paused = PausedCommand(f"{dataset}/{pattern}", number, pause, *command, **ENCODER)
    paused.process.kill()
    assert finish(paused.process).returncode == -signal.SIGKILL


def kill_and_finish(pictures: Path, dataset: Path, digest: str, changes: list[int], units: list[int]) -> None:
    """Kill runs at some of their changes and when some units are committed, then let one run finish."""
    for change in changes:
        kill_before("*", change, pictures, dataset)
    for unit in units:
        kill_before("parts/part-*.json", max(0, unit - committed(dataset)), pictures, dataset)
        assert committed(dataset) >= unit
    encode(pictures, dataset, **ENCODER)
    assert verified_digest(dataset) == digest
    assert_rows_once(dataset, PICTURES)
    assert leftovers(dataset) == []


def test_sigkill_at_some_moments(pictures: Path, unbroken_digest: str, tmp_path: Path) -> None:
    kill_and_finish(pictures, tmp_path / "dataset", unbroken_digest, changes=[], units=[3])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_sigkill_at_many_moments(seed: int, pictures: Path, unbroken_digest: str, tmp_path: Path) -> None:
    chooser, dataset = random.Random(seed), tmp_path / "dataset"
    changes = [chooser.randrange(6) for _ in range(8)]
    kill_and_finish(pictures, dataset, unbroken_digest, changes, units=list(range(1, UNITS)))


@pytest.mark.slow
def test_sigkill_before_the_manifest(pictures: Path, unbroken_digest: str, tmp_path: Path) -> None:
    kill_before("manifest.json", 0, pictures, tmp_path / "dataset")
    kill_and_finish(pictures, tmp_path / "dataset", unbroken_digest, changes=[], units=[])


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> str:
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == INTERRUPTED, f"{done.returncode}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    # MindSpore installs a native SIGINT handler when it starts to compute, which sends SIGTERM instead
    assert re.search(f"stopped by ({number.name}|SIGTERM)", done.stderr)
    assert "resumes" in done.stderr
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_the_model_loads(number: signal.Signals, pictures: Path, tmp_path: Path) -> None:
    """The plan exists and MindSpore is being imported: nothing is encoded yet, so the run must not report success."""
    dataset = tmp_path / "dataset"
    process = start_encode(pictures, dataset)
    wait_until((dataset / "plan.arrow").exists, process)
    interrupt(process, number)
    assert committed(dataset) == 0


def interrupt_inside_the_unit(pictures: Path, dataset: Path, number: signal.Signals) -> int:
    """Send a signal to a run as soon as it has claimed the only unit. Return the number of rows that it saved."""
    process = start_encode(pictures, dataset, *ONE_UNIT)
    wait_until(lambda: any((dataset / "claims").glob("part-*")), process)
    interrupt(process, number)
    opened = Dataset.open(dataset)
    return len(load_partial(opened, opened.plan(), 0, NUMERICS).records)


def test_interrupted_twice_inside_a_unit(pictures: Path, unbroken_digest: str, tmp_path: Path) -> None:
    """SIGTERM, then SIGINT, then a complete run. A picture whose row was saved is not needed again."""
    source, dataset = tmp_path / "pictures", tmp_path / "dataset"
    shutil.copytree(pictures, source)
    first = interrupt_inside_the_unit(source, dataset, signal.SIGTERM)
    assert 0 < first < PICTURES
    (source / "picture-00.png").unlink()
    assert first < interrupt_inside_the_unit(source, dataset, signal.SIGINT) < PICTURES
    encode(source, dataset, *ONE_UNIT, **ENCODER)
    assert verified_digest(dataset) == unbroken_digest
    assert leftovers(dataset) == []


def start_stand_in(pictures: Path, dataset: Path, **variables: str) -> subprocess.Popen[str]:
    """Start `emu3 encode` without a model."""
    command = ("encode", pictures, dataset, *ENCODE, *SMALL_UNITS)
    return start_module("tests.support.stand_in", *command, **variables)


@pytest.mark.parametrize("launch", [start_stand_in, pytest.param(start_encode, marks=pytest.mark.slow)])
def test_three_jobs_on_one_dataset(
    launch: Callable[..., subprocess.Popen[str]], pictures: Path, tmp_path: Path
) -> None:
    """Two jobs start together, a third one when the first unit is committed; who is not the last leaves units."""
    dataset, alone, gate = tmp_path / "dataset", tmp_path / "alone", Gate(tmp_path / "gate")
    jobs = [launch(pictures, dataset, **gate.environment) for _ in range(2)]
    wait_until(lambda: gate.admit_one() or committed(dataset) > 0, jobs[0])
    jobs.append(launch(pictures, dataset, **gate.environment))
    gate.open()
    finished = [finish(job) for job in jobs]
    assert {done.returncode for done in finished} <= {0, 75}, [done.stderr[-2000:] for done in finished]
    assert 0 in {done.returncode for done in finished}
    assert finish(launch(pictures, alone)).returncode == 0
    assert verified_digest(dataset) == verified_digest(alone)
    assert_rows_once(dataset, PICTURES)
    assert leftovers(dataset) == []
    assert Dataset.open(dataset).manifest().rows == PICTURES
