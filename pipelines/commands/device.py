"""Commands about the device itself. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pipelines.commands.build import options_command
from pipelines.commands.options import DTYPE, kernels_option, say

if TYPE_CHECKING:
    from pipelines.dry_run.job import DryRunResult
    from pipelines.dry_run.options import DryRunOptions


@options_command("pipelines.dry_run.options:DryRunOptions", name="dry-run")
@click.option("--dtype", type=DTYPE, help="Data type of the computation.")
@kernels_option
@click.option("--cards", type=int, multiple=True, help="Numbers of NPUs to simulate training on.")
def dry_run(options: DryRunOptions) -> None:
    """Compile every graph at the size of the published models for Ascend, and print its peak memory.

    For machines with CANN and no free NPU: it simulates one.
    """
    from pipelines.dry_run.job import dry_run as results_of
    from shared.errors import DeviceError, RelayError

    click.echo(f"{'graph':26}{'type':10}{'cards':>5}{'peak memory':>16}")
    failed = False
    for result in results_of(options):
        if result.exit_code == DeviceError.exit_code:
            raise DeviceError(f"a dry run needs CANN, though no free NPU: {result.output.strip()}")
        click.echo(f"{result.name:26}{result.dtype:10}{result.cards:>5}{_outcome(result):>16}")
        if result.exit_code:
            failed = True
            say(result.output)
    sys.exit(RelayError.exit_code if failed else 0)


def _outcome(result: DryRunResult) -> str:
    if result.exit_code:
        return "failed"
    return "not reported" if result.peak_mib is None else f"{result.peak_mib / 1024:.1f} GiB"
