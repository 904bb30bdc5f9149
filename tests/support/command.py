"""Runs the real command in a process of its own, and checks what a dataset must look like afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from shared.maintenance.verify import verify_dataset

REPOSITORY = Path(__file__).parents[2]
TOKENIZER = REPOSITORY / "tests" / "golden" / "baai_vq_small"
TWO_PICTURES = str(2 * 16 * 24)  # pixels per batch
MODEL = ("--vision-tokenizer", str(TOKENIZER))
ENCODE = (*MODEL, "--resize", "none", "--batch-pixels", TWO_PICTURES, "--quality-samples", "0")
SMALL_UNITS, ONE_UNIT = ("--unit-rows", "2"), ("--unit-rows", "64")
INTERRUPTED = 75
PATIENCE_S = 240.0
_GRAPHS = tempfile.TemporaryDirectory(prefix="emu3-graphs-")


def environment(**changes: str) -> dict[str, str]:
    """Return an environment with one thread per process: the pictures are small, and tests share the machine."""
    return {**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **changes}


def keep_graphs(name: str) -> dict[str, str]:
    """Return variables with which MindSpore stores the graphs that it compiles, and loads those stored under this name.

    It numbers graphs and compares nothing else, so this is for processes that compile the same ones in the same order.
    The first of them must run alone and undisturbed; those after it write nothing. Loading a graph of the golden
    tokenizer takes a tenth of the time of compiling it.
    """
    folder = os.path.join(_GRAPHS.name, name)
    return {
        "MS_COMPILER_CACHE_ENABLE": "1",
        "MS_COMPILER_CACHE_PATH": folder,
        "MS_DEV_FORCE_USE_COMPILE_CACHE": "1",  # whatever script is run
    }


# of the encoder for batches of two pictures of 16 × 24 pixels
ENCODER = keep_graphs("encoder")
# of the decoder for one picture of 16 × 24 pixels
DECODER = keep_graphs("decoder")


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
    """Wait for a started command; kill it if it hangs."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def emu3(*arguments: object, exit_code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `emu3 …`, which must exit with `exit_code` and print no traceback."""
    done = finish(start(*arguments, **changes))
    assert done.returncode == exit_code, f"exit {done.returncode}, expected {exit_code}:\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def emu3_here(*arguments: object, exit_code: int = 0) -> str:
    """Run `emu3 …` in this process, which must exit with `exit_code`; return what it printed.

    MindSpore is imported once for all tests that call this.
    """
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


def encode(
    pictures: Path, dataset: Path, *options: str, exit_code: int = 0, **changes: str
) -> subprocess.CompletedProcess[str]:
    return emu3("encode", pictures, dataset, *ENCODE, *(options or SMALL_UNITS), exit_code=exit_code, **changes)


def verified_digest(dataset: Path) -> str:
    """Return the digest of a dataset, which must be complete and undamaged, as `emu3 verify` prints it."""
    report = verify_dataset(Dataset.open(dataset))
    assert report.is_complete
    assert report.problems == []
    return report.digest


def leftovers(directory: Path) -> list[str]:
    """Return temporary files, claims and partial units; a finished job leaves none."""
    paths = (path.relative_to(directory) for path in directory.rglob("*"))
    return sorted(str(path) for path in paths if path.suffix == ".tmp" or path.parts[0] in ("claims", "partial"))


def assert_rows_once(dataset: Path, rows: int) -> None:
    """Check that every input is in exactly one row, and that every part on disk belongs to a record."""
    opened = Dataset.open(dataset)
    records = list(opened.commit_records())
    indices = [row.src_index for record in records for row in opened.rows(record)]
    assert sorted(indices) == list(range(rows))
    assert {path.name for path in opened.parts.glob("*.arrow")} == {record.part for record in records}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Poll until a condition holds; fail if the process ends or hangs before that."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"ended too early, exit {process.returncode}: {finish(process).stderr[-2000:]}"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)
