"""Planning of millions of inputs: seconds, memory, and how long a job takes to read the plan.

    python -m tests.benchmarks.bench_planning --inputs 10000000

Sizes are given, so only the planning itself is measured: keys, units, the temporary table, the plan file.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from shared.codec import EMU3
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan, PlannedInput
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.settings import DatasetSettings
from tests.benchmarks.fresh_process import in_fresh_process, peak_gib
from tests.benchmarks.row import Row

SIZES = 40
GOAL_S, GOAL_GIB = 200.0, 1.5  # of 10⁷ inputs


@dataclass(frozen=True, slots=True)
class Planning:
    """The time to plan inputs, the most memory meanwhile, and the time to open the plan."""

    inputs: int
    planned_s: float
    peak_gib: float
    opened_s: float


def plan_inputs(inputs: int) -> Planning:
    """Plan images of 40 sizes with captions, in units of 256."""
    with tempfile.TemporaryDirectory() as folder:
        path, keys, began = Path(folder) / "plan.arrow", KnownKeys(), time.perf_counter()
        with PlanWriter(256) as writer:
            for index in range(inputs):
                key = f"folder-{index % 1000:04d}/picture-{index:09d}"
                assert keys.is_new(key)
                size = (1, 512 + 8 * (index % SIZES), 512)
                writer.add(size, PlannedInput(index, key, f"{key}.jpg", f"a caption of picture {index}"))
            del keys  # as planning does
            writer.freeze(path, DatasetSettings(EMU3))
        planned_s, peak = time.perf_counter() - began, peak_gib()
        began = time.perf_counter()
        Plan(path).sizes()
        return Planning(inputs, planned_s, peak, time.perf_counter() - began)


def rows(quick: bool) -> list[Row]:
    """Plan 10⁶ and 10⁷ inputs, each in a fresh process, and extrapolate to 10⁸; a tenth of that if `quick`."""
    million = 100_000 if quick else 1_000_000
    smaller, larger = (in_fresh_process(plan_inputs, count) for count in (million, 10 * million))
    goals = (None, None) if quick else (GOAL_S, GOAL_GIB)
    name, goal_of_time, goal_of_memory = f"plan {powers_of_ten(larger.inputs)} inputs", *goals
    ten_times = f"plan {powers_of_ten(10 * larger.inputs)} inputs (extrapolated)"
    return [
        Row(name, larger.planned_s, "s", goal=goal_of_time, is_limit=True),
        Row(name, larger.peak_gib, "GiB", goal=goal_of_memory, is_limit=True),
        Row(ten_times, extrapolated(smaller.planned_s, larger.planned_s), "s"),
        Row(ten_times, extrapolated(smaller.peak_gib, larger.peak_gib), "GiB"),
    ]


def extrapolated(at_tenth: float, at_one: float) -> float:
    """Return the value at ten times the size, on the line through those at a tenth and at one."""
    return at_one + 9 * (at_one - at_tenth) / 0.9


def powers_of_ten(count: int) -> str:
    """Return 10⁶ for a million."""
    return "10" + str(round(math.log10(count))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


@click.command()
@click.option("--inputs", type=int, default=1_000_000)
def main(inputs: int) -> None:
    """Print the time and the memory of one plan."""
    found = in_fresh_process(plan_inputs, inputs)
    click.echo(f"{inputs} inputs planned in {found.planned_s:.0f} s, {inputs / found.planned_s:.0f} a second")
    click.echo(
        f"memory at most {found.peak_gib:.2f} GiB; opened, with the sizes of all units, in {found.opened_s:.1f} s"
    )


if __name__ == "__main__":
    main()
