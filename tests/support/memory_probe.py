"""Measures the memory that saving and resuming a model takes: `python -m tests.support.memory_probe MODEL RUN TASK`.

In a process of its own, which has freed nothing before. Prints JSON, in bytes of anonymous memory: the memory before
and after each phase, and the highest in between. Pages of mapped files do not count; the system drops them at need.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lm_stage.model.checksums import write_model_directory
from lm_stage.model.config import read_config
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.model_state import TrainedModel
from lm_stage.training.options import SftOptions
from lm_stage.training.progress import Progress
from shared.device import setup_device

INTERVAL_S = 0.001


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@contextmanager
def measured(phases: dict[str, dict[str, int]], name: str) -> Iterator[None]:
    """Add the memory of the block to `phases`."""
    before, ended, seen = anonymous_bytes(), threading.Event(), [0]

    def sample() -> None:
        while not ended.wait(INTERVAL_S):
            seen[0] = max(seen[0], anonymous_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    yield
    ended.set()
    thread.join()
    phases[name] = {"before": before, "highest": seen[0], "after": anonymous_bytes()}


def main(directory: str, run: str, task: str) -> None:
    device = setup_device("cpu")
    options = SftOptions(("codes",), run, model=directory, zero=True)
    start, checkpoint = ModelDirectory.open(directory), Path(run) / "checkpoint"
    phases: dict[str, dict[str, int]] = {}
    with measured(phases, "load"):
        weights_from = checkpoint if task == "resume" else None
        model = TrainedModel(options, start, read_config(directory), device, ProcessGroup(), weights_from)
    if task == "resume":
        with measured(phases, "restore"):
            model.restore(checkpoint)
    else:
        with measured(phases, "checkpoint"):
            write_model_directory(checkpoint, model.checkpoint_files(Progress()))
        with measured(phases, "model"):
            write_model_directory(Path(run) / "model", model.model_files("bfloat16"))
    print(json.dumps(phases))


if __name__ == "__main__":
    main(*sys.argv[1:])
