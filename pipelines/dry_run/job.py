"""The job behind `emu3 dry-run`: compiles every graph at the size of the published models on a simulated NPU.

Each graph has a process of its own, because MindSpore reads the simulation's settings when it is imported, and so that
its peak memory is that of one graph. This follows MindSpore's documentation of dry runs; it has not run with CANN.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.dry_run.graph_table import all_graphs
from pipelines.dry_run.options import DryRunOptions
from shared.jobs.process_tree import environment_of_child

WORKER = (sys.executable, "-m", "pipelines.dry_run.worker")
SIMULATION_LEVEL = "1"  # compiles, and adds up the memory of inputs and outputs, without a card
PEAK = re.compile(r"Actual peak memory usage \(with fragments\): (\d+)M")
LOG = re.compile(r"\[(?:DEBUG|INFO|WARNING)\]")  # the beginning of lines that are no error
LINES_OF_AN_ERROR = 12
SFT = "sft"


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """What became of a graph: its peak memory in MiB if MindSpore reported one, or the end of its output."""

    name: str
    dtype: str
    cards: int
    exit_code: int
    peak_mib: int | None
    output: str


def dry_run(options: DryRunOptions) -> Iterator[DryRunResult]:
    """Yield the result of every graph on one card, then of an optimizer step of `emu3 sft` on each number of cards."""
    for graph in all_graphs().values():
        dtype = options.dtype if options.dtype in graph.dtypes else graph.dtypes[0]
        yield _simulate(graph.name, dtype, graph.cards, options.kernels)
    for cards in options.cards:
        yield _simulate(SFT, options.dtype, cards, options.kernels)


def _simulate(name: str, dtype: str, cards: int, kernels: str) -> DryRunResult:
    """Run one graph in a process of its own. Its log is long: only the peak and the last lines of errors are kept."""
    variables = {
        "MS_SIMULATION_LEVEL": SIMULATION_LEVEL,
        "RANK_SIZE": str(cards),
        "RANK_ID": "0",
        "GLOG_v": "1",  # MindSpore reports the peak at this level
    }
    command = [*WORKER, name, dtype, str(cards), kernels]
    peak, last = None, deque[str](maxlen=LINES_OF_AN_ERROR)
    with subprocess.Popen(
        command,
        env={**environment_of_child(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not LOG.match(line):
                last.append(line)
            if found := PEAK.search(line):
                peak = max(int(found[1]), peak or 0)
    return DryRunResult(name, dtype, cards, process.returncode, peak, "".join(last))
