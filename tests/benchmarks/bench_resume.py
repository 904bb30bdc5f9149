"""Resuming a complete dataset, with nothing left to do: seconds and memory over many committed inputs.

    python -m tests.benchmarks.bench_resume --inputs 1000000

The source is a folder of empty files, a thousand to a folder: a resume lists them all and opens none. The rows have one
code each, since a resume reads no rows either.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.rows import CodeRecord
from tests.benchmarks.bench_planning import powers_of_ten
from tests.benchmarks.fresh_process import in_fresh_process, peak_gib
from tests.benchmarks.row import Row
from vq_stage.encode.job import encode
from vq_stage.encode.options import EncodeOptions
from vq_stage.media.resizing import Preprocessing

GOAL_S, GOAL_GIB = 10.0, 1.0  # of 10⁶ inputs
UNIT_ROWS = 256


def options_in(root: Path) -> EncodeOptions:
    return EncodeOptions(str(root / "source"), str(root / "dataset"), preprocessing=Preprocessing("none"))


def write_complete(root: Path, inputs: int) -> None:
    """Write the source and the dataset of all its files."""
    options, source = options_in(root), root / "source"
    dataset = Dataset(options.dataset)
    dataset.root.mkdir()
    with PlanWriter(UNIT_ROWS) as writer:
        for index in range(inputs):
            name = f"folder-{index // 1000:05d}/picture-{index:08d}"
            if index % 1000 == 0:
                (source / name).parent.mkdir(parents=True)
            os.close(os.open(source / f"{name}.png", os.O_CREAT | os.O_WRONLY))
            writer.add((1, 8, 8), PlannedInput(index, name, f"{name}.png", f"a caption of picture {index}"))
        writer.freeze(dataset.plan_path, options.recorded())
    plan, codes = dataset.plan(), np.zeros((1, 1, 1), np.uint16)
    for number in range(len(plan)):
        rows = [
            CodeRecord(one.key, one.src_index, "image", codes, one.text, one.uri, bytes(32), 8, 8)
            for one in plan.unit(number).inputs
        ]
        dataset.commit(UnitResult(number, rows, numerics={"device": "CPU"}), plan)
    dataset.write_manifest(plan)


def resume(root: Path) -> tuple[float, float]:
    """Return the seconds that the same command takes, and the most memory in GiB."""
    began = time.perf_counter()
    done = encode(options_in(root))
    assert (done.rows, done.units_missing) == (0, 0)
    return time.perf_counter() - began, peak_gib()


def rows(quick: bool) -> list[Row]:
    """Resume a dataset of 10⁶ inputs, of 10⁵ if `quick`; the first of two runs reads the disk."""
    inputs = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        in_fresh_process(write_complete, root, inputs)
        elapsed_s, peak = min(in_fresh_process(resume, root) for _ in range(2))
    name, goals = f"resume over {powers_of_ten(inputs)} committed inputs", (None, None) if quick else (GOAL_S, GOAL_GIB)
    return [
        Row(name, elapsed_s, "s", goal=goals[0], is_limit=True),
        Row(name, peak, "GiB", goal=goals[1], is_limit=True),
    ]


@click.command()
@click.option("--inputs", type=int, default=1_000_000)
def main(inputs: int) -> None:
    """Print the time and the memory of two resumes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        in_fresh_process(write_complete, root, inputs)
        for _ in range(2):
            elapsed_s, peak = in_fresh_process(resume, root)
            click.echo(f"resume over {inputs} committed inputs: {elapsed_s:.2f} s, {peak:.2f} GiB")


if __name__ == "__main__":
    main()
