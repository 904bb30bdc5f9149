"""The command line: a command builds one options object, calls one function, prints, and sets the exit code.

The exit codes are those of the exceptions in `shared/errors.py`: 0 done, 1 failed, 2 bad usage or input, 75
interrupted and resumable.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from pipelines.commands import dataset, device, doctor, export, language, language_models, vision, workflow
from pipelines.commands.options import say
from shared.errors import Interrupted, RelayError
from shared.jobs.process_tree import exit_beside_unkillable, exit_with_parent

# Commands that write nothing but a report, or all of their output at once.
_WITHOUT_COMMITS = ("plan", "inspect", "verify", "init-lm", "convert-lm", "dry-run", "doctor")


class RelayGroup(click.Group):
    """Prints errors meant for the user as text, without a traceback, and exits with their code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            exit_beside_unkillable(int(end.code or 0))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RelayError as error:
            say(f"emu3 {ctx.invoked_subcommand}: {error}")
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            say(f"emu3 {ctx.invoked_subcommand}: stopped at once" + _kept(ctx, ", the same command resumes"))
            sys.exit(Interrupted.exit_code)
        except OSError as error:
            say(f"emu3 {ctx.invoked_subcommand}: {error}" + _kept(ctx, ", run the same command again"))
            sys.exit(RelayError.exit_code)


def _kept(ctx: click.Context, advice: str) -> str:
    """Return what follows a failure: the advice to resume, if the command has anything to resume."""
    return "" if ctx.invoked_subcommand in _WITHOUT_COMMITS else f"; committed work is kept{advice}"


@click.group(cls=RelayGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="emu3-relay")
def main() -> None:
    """Emu3 in two stages that meet on disk: images and videos to code shards, token sequences to pictures."""


for module in (vision, dataset, export, language, language_models, workflow, device, doctor):
    for command in vars(module).values():
        if isinstance(command, click.Command):
            main.add_command(command)


if __name__ == "__main__":
    exit_with_parent()
    main()
