"""The real command in a process of its own, and what a dataset must look like afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shared.dataset.dataset import Dataset

REPOSITORY = Path(__file__).parents[2]
TOKENIZER = REPOSITORY / "tests" / "golden" / "baai_vq_small"
TWO_PICTURES = str(2 * 16 * 24)  # pixels a batch
MODEL = ("--vision-tokenizer", str(TOKENIZER))
ENCODE = (*MODEL, "--resize", "none", "--batch-pixels", TWO_PICTURES, "--quality-samples", "0")
SMALL_UNITS, ONE_UNIT = ("--unit-rows", "2"), ("--unit-rows", "64")
INTERRUPTED = 75
PATIENCE_S = 240.0


def environment(**changes: str) -> dict[str, str]:
    """One thread a process: these pictures are too small to share, and tests share the machine."""
    return {**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **changes}


def start(*arguments: object, **changes: str) -> subprocess.Popen[str]:
    """Start `emu3 …` in the background."""
    return start_module("pipelines.cli", *arguments, **changes)


def start_module(module: str, *arguments: object, **changes: str) -> subprocess.Popen[str]:
    """Start `python -m module …` in the background, with changes to its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for a started command; kills it if it hangs."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def emu3(*arguments: object, exit_code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """`emu3 …`, which must end with `exit_code` and without a traceback."""
    done = finish(start(*arguments, **changes))
    assert done.returncode == exit_code, f"exit {done.returncode}, expected {exit_code}:\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def encode(pictures: Path, dataset: Path, *options: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    return emu3("encode", pictures, dataset, *ENCODE, *(options or SMALL_UNITS), exit_code=exit_code)


def verified_digest(dataset: Path) -> str:
    """Last line of `emu3 verify` on a complete, undamaged dataset."""
    done = emu3("verify", dataset)
    assert "NOT complete" not in done.stderr, done.stderr
    return done.stdout.splitlines()[-1]


def leftovers(directory: Path) -> list[str]:
    """Temporary files, claims and kept rows: nothing of them outlives a finished job."""
    paths = (path.relative_to(directory) for path in directory.rglob("*"))
    return sorted(str(path) for path in paths if path.suffix == ".tmp" or path.parts[0] in ("claims", "partial"))


def assert_rows_once(dataset: Path, rows: int) -> None:
    """Every input is in exactly one row, and every part on disk belongs to a record."""
    opened = Dataset.open(dataset)
    records = list(opened.commit_records())
    indices = [row.src_index for record in records for row in opened.rows(record)]
    assert sorted(indices) == list(range(rows))
    assert {path.name for path in opened.parts.glob("*.arrow")} == {record.part for record in records}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Polls until it holds; fails if the process ends or hangs before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"ended too early, exit {process.returncode}: {finish(process).stderr[-2000:]}"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
