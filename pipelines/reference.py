"""The reference of all commands and options as Markdown: `python -m pipelines.reference > docs/options.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from pipelines.cli import main

UPDATE_COMMAND = "python -m pipelines.reference > docs/options.md"
HEADER = f"""# Commands and options

<!-- Generated from the command line. Do not edit; run `{UPDATE_COMMAND}`. -->

The defaults are those of the options dataclasses that the commands build; `emu3 COMMAND --help` shows the same.
A default in parentheses is described in words.
"""


def options_page(program: click.Group) -> str:
    """A section for each command: its usage, its description, and a table of its options."""
    root = click.Context(program, info_name="emu3", show_default=True)
    sections = [_section(command, root) for _, command in sorted(program.commands.items())]
    return "\n".join([HEADER, *sections])


def _section(command: click.Command, root: click.Context) -> str:
    context = click.Context(command, info_name=command.name, parent=root)
    load_defaults = getattr(command, "load_defaults", None)
    if load_defaults:
        load_defaults(context)
    usage = " ".join(["emu3", command.name or "", *command.collect_usage_pieces(context)])
    return "\n".join([f"## emu3 {command.name}", "", f"    {usage}", "", _description(command), "", *_table(context)])


def _description(command: click.Command) -> str:
    """The docstring, with paragraphs on one line each."""
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _table(context: click.Context) -> Iterator[str]:
    options = [param for param in context.command.params if isinstance(param, click.Option)]
    if not options:
        return
    yield "| Option | Default | Description |"
    yield "|---|---|---|"
    for option in options:
        names = " / ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        metavar = "" if option.is_flag else f" `{option.make_metavar(context)}`"
        default = option.get_help_extra(context).get("default", "")
        cells = (f"{names}{metavar}", default, option.help or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


if __name__ == "__main__":
    print(options_page(main), end="")
