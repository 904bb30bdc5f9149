"""Planning of millions of inputs: seconds, memory, and how long a job takes to read the plan.

    python -m tests.benchmarks.bench_planning --inputs 10000000

Sizes are given, so only the planning itself is measured: keys, units, the temporary table, the plan file.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import click

from shared.codec import EMU3
from shared.dataset.plan import Plan, PlannedInput
from shared.dataset.plan_writer import KnownKeys, PlanWriter
from shared.dataset.settings import DatasetSettings

SIZES = 40


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


@click.command()
@click.option("--inputs", type=int, default=1_000_000)
def main(inputs: int) -> None:
    """Plan images of 40 sizes with captions, in units of 256."""
    with tempfile.TemporaryDirectory() as folder:
        path, keys, before = Path(folder) / "plan.arrow", KnownKeys(), peak_gib()
        began = time.perf_counter()
        with PlanWriter(256) as writer:
            for index in range(inputs):
                key = f"folder-{index % 1000:04d}/picture-{index:09d}"
                assert keys.is_new(key)
                size = (1, 512 + 8 * (index % SIZES), 512)
                writer.add(size, PlannedInput(index, key, f"{key}.jpg", f"a caption of picture {index}"))
            del keys  # as planning does
            writer.freeze(path, DatasetSettings(EMU3))
        planned_s = time.perf_counter() - began
        megabytes = path.stat().st_size / 1e6
        click.echo(
            f"{inputs} inputs planned in {planned_s:.0f} s, {inputs / planned_s:.0f} a second, {megabytes:.0f} MB"
        )
        click.echo(f"memory at most {peak_gib():.2f} GiB, {before:.2f} of it before the first input")
        began = time.perf_counter()
        plan = Plan(path)
        units = len(plan.sizes())
        click.echo(f"opened, with the sizes of {units} units, in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
