"""Commands about the device itself. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pipelines.commands.options import say

if TYPE_CHECKING:
    from pipelines.dry_run.job import DryRunResult


@click.command("dry-run")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="bfloat16", help="Data type.")
@click.option(
    "--kernels", type=click.Choice(["auto", "plain"]), default="auto", help="Kernels; plain are those of the CPU."
)
@click.option(
    "--cards", type=int, multiple=True, default=(1, 4, 8, 16), help="Numbers of NPUs to simulate training on."
)
def dry_run(dtype: str, kernels: str, cards: tuple[int, ...]) -> None:
    """Compile every graph at the size of the published models for Ascend, and print its peak memory.

    For machines with CANN and no free NPU: it simulates one.
    """
    from pipelines.dry_run.job import dry_run as results_of
    from pipelines.dry_run.options import DryRunOptions
    from shared.errors import DeviceError, RelayError

    click.echo(f"{'graph':26}{'type':10}{'cards':>5}{'peak memory':>16}")
    failed = False
    for result in results_of(DryRunOptions(dtype, kernels, cards)):
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
