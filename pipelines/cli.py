"""The command line. A command builds one options object, calls one function, prints, sets the exit code.

Exit codes: 0 done, 1 failed, 2 bad usage or input, 75 interrupted and resumable.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from pipelines.commands import dataset, language, vision, workflow
from pipelines.commands.options import say
from shared.errors import RelayError


class RelayGroup(click.Group):
    """Prints our errors as text, without a traceback, and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RelayError as error:
            say(f"emu3 {ctx.invoked_subcommand}: {error}")
            sys.exit(error.exit_code)
        except OSError as error:
            click.echo(f"emu3 {ctx.invoked_subcommand}: {error}; what was committed stays, run it again", err=True)
            sys.exit(1)


@click.group(cls=RelayGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="emu3-relay")
def main() -> None:
    """Two stages that meet on disk: pictures to code shards, token sequences to pictures."""


for module in (vision, dataset, language, workflow):
    for command in vars(module).values():
        if isinstance(command, click.Command):
            main.add_command(command)


if __name__ == "__main__":
    main()
