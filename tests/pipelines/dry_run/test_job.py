"""The dry run up to the point where CANN is needed: every graph gets a process, whose documented output is read."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.dry_run import job
from pipelines.dry_run.graph_table import all_graphs
from pipelines.dry_run.options import DryRunOptions
from shared.errors import UsageError

# What MindSpore's documentation of dry runs shows, printed with the settings that the process got.
REPORT = """
import os, sys
name, dtype, cards, kernels = sys.argv[1:]
assert (os.environ["MS_SIMULATION_LEVEL"], os.environ["RANK_SIZE"], os.environ["RANK_ID"]) == ("1", cards, "0")
print("[INFO] DEVICE: Used peak memory usage (without fragments): 23716M")
print("Actual peak memory usage (with fragments): 1024M", file=sys.stderr)
print("[INFO] DEVICE: Actual peak memory usage (with fragments): 26244M", file=sys.stderr)
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    """Replace the worker by a Python program."""
    return lambda program: monkeypatch.setattr(job, "WORKER", (sys.executable, "-c", program))


def test_every_graph_and_number_of_cards_is_simulated(worker) -> None:
    worker(REPORT)
    results = list(job.dry_run(DryRunOptions(cards=(1, 16))))
    assert [result.name for result in results] == [*all_graphs(), job.SFT, job.SFT]
    assert {result.peak_mib for result in results} == {26244}
    assert [result.cards for result in results if result.name == job.SFT] == [1, 16]
    by_name = {result.name: result for result in results}
    assert by_name["training step, ZeRO"].cards == 8
    assert (by_name["decode step"].dtype, by_name["train-vq step"].dtype) == ("bfloat16", "float32")


def test_the_command_prints_peaks_and_fails_if_a_graph_does(worker) -> None:
    worker(REPORT)
    done = CliRunner().invoke(main, ["dry-run", "--cards", "8"])
    assert done.exit_code == 0
    assert done.output.splitlines()[-1].split() == ["sft", "bfloat16", "8", "25.6", "GiB"]
    worker(REPORT + "\nif name == 'sft': sys.exit('does not compile')")
    done = CliRunner().invoke(main, ["dry-run", "--cards", "8"])
    assert done.exit_code == 1
    assert "does not compile" in done.output


def test_without_cann_the_command_says_so() -> None:
    """The real worker, on a machine without CANN."""
    done = CliRunner().invoke(main, ["dry-run"])
    assert done.exit_code == 2
    assert "a dry run needs CANN, though no free NPU" in done.output
    assert "device ascend: no NPU found" in done.output
    assert "[INFO]" not in done.output


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--dtype.*--cards"):
        DryRunOptions(dtype="int8", cards=(0,))
