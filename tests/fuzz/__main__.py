"""`python -m tests.fuzz`: damaged and hostile files for every reader, each case in a process of its own with limits."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.case import Case, Failure, reproduce, run_case
from tests.fuzz.targets import TARGETS, make_templates

PROGRESS_S = 60


def main() -> int:
    options = _options()
    if options.reproduce:
        return _report(reproduce(options.reproduce))
    names = options.targets.split(",") if options.targets else list(TARGETS)
    with tempfile.TemporaryDirectory(prefix="emu3-fuzz-") as folder:
        templates = make_templates(Path(folder), names)
        end_s = time.monotonic() + 60 * options.minutes
        print(
            f"seed {options.seed}, {options.minutes:g} minutes, {options.jobs} processes: {', '.join(names)}",
            flush=True,
        )
        pipes = [_start(job, options, templates, end_s) for job in range(options.jobs)]
        results = [json.loads(open(pipe).read()) for pipe in pipes]
    return _summarize(results, names, options.seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="stop after this many cases of each process")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--targets", help="names separated by commas; by default all")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for inputs that fail")
    parser.add_argument("--reproduce", type=Path, help="run one case from the folder of failures again")
    return parser.parse_args()


def _start(job: int, options: argparse.Namespace, templates: dict[str, Path], end_s: float) -> int:
    """Fork one server, which forks a process for each of its cases; return a pipe with its counts."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        return reader
    counts: Counter[str] = Counter()
    peak_bytes: Counter[str] = Counter()
    number, printed_s = job, time.monotonic()
    names = list(templates)
    gc.collect()
    gc.freeze()  # or the collector of every forked process would copy all memory
    while time.monotonic() < end_s and sum(counts.values()) < options.cases:
        name = names[number // options.jobs % len(names)]
        case = Case.generate(name, templates[name], options.seed, number)
        outcome = run_case(case, options.failures)
        counts[f"{name}:{outcome.kind}"] += 1
        peak_bytes[name] = max(peak_bytes[name], outcome.memory_bytes)
        if isinstance(outcome, Failure):
            print(outcome, flush=True)
        if job == 0 and time.monotonic() > printed_s + PROGRESS_S:
            print(f"{sum(counts.values())} cases by process 0", flush=True)
            printed_s = time.monotonic()
        number += options.jobs
    os.write(writer, json.dumps({"counts": counts, "peak_bytes": peak_bytes}).encode())
    os._exit(0)


def _summarize(results: Sequence[dict[str, dict[str, int]]], names: Sequence[str], seed: int) -> int:
    counts: Counter[str] = sum((Counter(result["counts"]) for result in results), Counter())
    failures = 0
    for name in names:
        kinds = {key.partition(":")[2]: number for key, number in counts.items() if key.startswith(f"{name}:")}
        failures += sum(number for kind, number in kinds.items() if kind not in ("accepted", "refused"))
        parts = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
        peak_bytes = max(result["peak_bytes"].get(name, 0) for result in results)
        print(f"{name:12} {sum(kinds.values()):8} cases, up to {peak_bytes >> 20} MiB: {parts}")
    print(f"seed {seed}: {sum(counts.values())} cases, {failures} failures")
    return int(failures > 0)


def _report(outcome: object) -> int:
    print(outcome)
    return int(isinstance(outcome, Failure))


if __name__ == "__main__":
    sys.exit(main())
