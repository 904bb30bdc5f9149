"""Runs `step_by_step` in a process of its own, and judges what it reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.command import REPOSITORY, environment

NOT_COMPARED = ("events.jsonl", ".lock")  # a log that contains times; an empty lock file


def steps(
    disturbance: str, work: Path, root: Path | None, *arguments: object, every: int = 1, **changes: str
) -> list[dict[str, Any]]:
    """Run `step_by_step`, with changes to its environment.

    Returns its line for every step that it disturbs, of which the last one is undisturbed.
    """
    work.mkdir()
    command = [sys.executable, "-m", "tests.support.step_by_step", disturbance, every, work, root or "-", *arguments]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=REPOSITORY,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert every * len(lines) > 5, "hardly anything was written: does the audit hook work?"
    return lines


def compared(files: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name not in NOT_COMPARED}


def problems(lines: list[dict[str, Any]], allowed: set[int]) -> list[str]:
    """Describe the steps after which an exit code, the printed text or the files are wrong."""
    undisturbed = lines[-1]
    assert (undisturbed["first"], undisturbed["again"]) == (0, 0), undisturbed["first_printed"][-2000:]
    found = []
    for line in lines[:-1]:
        where = f"step {line['step']} {line['first_printed'].splitlines()[0]}"
        if line["first"] not in allowed:
            found.append(f"{where}: exit {line['first']}: {line['first_printed'][-300:]}")
        if line["first"] == 0 and compared(line["between"]) != compared(undisturbed["after"]):
            found.append(f"{where}: exit 0, but incomplete: {line['first_printed'][-300:]}")
        if "Traceback" in line["first_printed"] + line["printed"]:
            found.append(f"{where}: traceback: {line['first_printed'][-300:]} {line['printed'][-300:]}")
        if line["again"] != 0:
            found.append(f"{where}: run again, exit {line['again']}: {line['printed'][-300:]}")
        if compared(line["after"]) != compared(undisturbed["after"]):
            differing = set(compared(line["after"]).items()) ^ set(compared(undisturbed["after"]).items())
            found.append(f"{where}: final files differ: {sorted(name for name, _ in differing)}")
    return found
