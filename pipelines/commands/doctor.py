"""The command that checks a machine and its device. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pipelines.commands.build import options_command
from pipelines.commands.options import device_option, kernels_option

if TYPE_CHECKING:
    from pipelines.doctor.check import Result
    from pipelines.doctor.options import DoctorOptions


@options_command("pipelines.doctor.options:DoctorOptions")
@device_option
@kernels_option
@click.option(
    "--only",
    multiple=True,
    metavar="CHECK",
    show_default="all",
    help="Run only this check, or group of checks: machine, vision, language, training or kernels; may be repeated.",
)
@click.option("--compare", type=click.Choice(["mindone"]), help="Compare with the models of mindone, on an NPU.")
@click.option(
    "--time-limit",
    "time_limit_s",
    type=float,
    metavar="SECONDS",
    show_default="600",
    help="Time limit of each check; a check that takes longer has failed.",
)
@click.option("--json", "report", metavar="FILE", help="Write everything that a bug report needs to this file.")
def doctor(options: DoctorOptions) -> None:
    """Check this machine and its device: versions, memory, models, training and single kernels.

    Prints a verdict for each check. Exits with 1 if a check fails.
    """
    from tqdm import tqdm

    from pipelines.doctor.checks import check_table
    from pipelines.doctor.report import has_failed, last_lines, line, write_report
    from pipelines.doctor.runner import Doctor
    from shared.errors import RelayError

    run = Doctor(options, check_table(options.compare))
    results: list[Result] = []
    with tqdm(unit="check", desc="doctor", disable=None, leave=False) as bar:

        def show(name: str, left: int) -> None:
            bar.total = len(results) + left
            bar.set_postfix_str(name)

        for result in run.run(show):
            results.append(result)
            bar.update()
            with bar.external_write_mode():
                click.echo(line(result))
    for text in last_lines(results):
        click.echo(text)
    if options.report:
        write_report(options.report, options, results, run.device)
    sys.exit(RelayError.exit_code if has_failed(results) else 0)
