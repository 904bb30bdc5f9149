"""All benchmarks, one after the other: `python -m tests.benchmarks.run [--quick] [--only NAME] [--json FILE]`.

Each module has a function `rows(quick)`, which runs in a fresh process: importing PyTorch alone slows MindSpore down.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import click

from tests.benchmarks.fresh_process import in_fresh_process
from tests.benchmarks.machine import Machine, this_machine
from tests.benchmarks.row import Row
from tests.benchmarks.table import replace_part, table

MODULES = ("vision", "ibq", "language", "window", "sft", "jobs", "engine", "resume", "planning", "formats")


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of all modules, in the order of the table, and the machine they were taken on."""

    machine: Machine
    is_quick: bool
    elapsed_s: dict[str, float]
    sections: dict[str, list[Row]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        values = json.loads(text)
        values["machine"] = Machine(**values["machine"])
        values["sections"] = {name: [Row(**row) for row in rows] for name, rows in values["sections"].items()}
        return cls(**values)

    def page(self) -> str:
        """Return the part of docs/benchmarks.md that is generated."""
        return f"{self.machine.sentence()}\n\n{table(self.sections)}"


def module_rows(name: str, quick: bool) -> list[Row]:
    """Run one module in this process."""
    return list(import_module(f"tests.benchmarks.bench_{name}").rows(quick))


def reports(names: Sequence[str], quick: bool) -> Iterator[Report]:
    """Run modules, each in a fresh process, and yield the report after each. One that fails is printed and left out."""
    load, sections, elapsed_s = os.getloadavg()[0], {}, {}
    for name in names:
        began = time.monotonic()
        try:
            sections[name] = in_fresh_process(module_rows, name, quick)
        except Exception as error:
            click.echo(f"bench_{name} failed: {error!r}", err=True)
        else:
            elapsed_s[name] = round(time.monotonic() - began, 1)
            click.echo(f"bench_{name}: {elapsed_s[name]:.0f} s", err=True)
        yield Report(this_machine(load), quick, elapsed_s, sections)


@click.command()
@click.option("--quick", is_flag=True, help="Smaller sizes and fewer rounds, in about five minutes.")
@click.option("--only", "names", multiple=True, type=click.Choice(MODULES), help="Run only this module; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows and the machine here.")
@click.option("--page", type=click.Path(path_type=Path), help="Replace the table between the markers of this page.")
def main(quick: bool, names: tuple[str, ...], json_file: Path | None, page: Path | None) -> None:
    """Print one table: our figures, the peers', the goals, and whether they are met.

    The files are written after every module, so that a run that is interrupted keeps its rows.
    """
    names = names or MODULES
    for report in reports(names, quick):
        if json_file:
            json_file.write_text(report.to_json(), encoding="utf-8")
        if page:
            replace_part(page, report.page())
    click.echo(f"\n{report.page()}")
    sys.exit(len(report.sections) < len(names))


if __name__ == "__main__":
    main()
