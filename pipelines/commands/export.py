"""The command that exports: the rows of a dataset, or the token sequences of a mixture. Heavy imports wait."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipelines.commands.build import OptionsCommand, Parameters, fill, parameter_defaults
from pipelines.commands.options import (
    explains_mixtures,
    loss_options,
    model_option,
    say,
    seed_option,
    seq_length_option,
    skip_damaged_option,
    video_template_option,
)

if TYPE_CHECKING:
    from lm_stage.export.options import SequenceExportOptions
    from shared.exchange.options import ExportOptions

ROWS, SEQUENCES = "shared.exchange.options:ExportOptions", "lm_stage.export.options:SequenceExportOptions"
ROW_FORMATS, SEQUENCE_FORMATS = ("webdataset", "parquet", "pth"), ("megatron", "mindrecord")


class ExportCommand(OptionsCommand):
    """Builds the options of the job that `--format` selects, and refuses flags that this job does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self.load_defaults(ctx)
        rest = click.Command.parse_args(self, ctx, args)
        if not ctx.resilient_parsing:
            ctx.params = {"options": self._options(ctx)}
        return rest

    def defaults(self) -> Parameters:
        rows, sequences = (parameter_defaults(pkgutil.resolve_name(name)) for name in (ROWS, SEQUENCES))
        return {**sequences, **rows}

    def _options(self, ctx: click.Context) -> Any:
        has_rows = ctx.params["format"] in ROW_FORMATS
        options_class = pkgutil.resolve_name(ROWS if has_rows else SEQUENCES)
        known = {"datasets", *parameter_defaults(options_class)}
        for parameter in self.params:
            name = str(parameter.name)
            if name not in known and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                formats = " or ".join(SEQUENCE_FORMATS if has_rows else ROW_FORMATS)
                raise click.UsageError(f"{parameter.opts[0]}: only with --format {formats}", ctx)
        if not has_rows:
            return fill(options_class, ctx.params)
        if len(ctx.params["datasets"]) > 1:
            raise click.UsageError(f"--format {ctx.params['format']}: expected one dataset, and OUT", ctx)
        return fill(options_class, {**ctx.params, "dataset": ctx.params["datasets"][0]})


@click.command(cls=ExportCommand, options_class=ROWS)
@click.argument("datasets", nargs=-1, required=True)
@click.argument("out")
@click.option(
    "--format",
    type=click.Choice([*ROW_FORMATS, *SEQUENCE_FORMATS]),
    help="File format; pth is that of the original Emu3 code.",
)
@click.option("--shard-mb", type=int, help="Maximum size of a file of rows in MiB.")
@click.option(
    "--documents",
    type=click.Choice(["sample", "row"]),
    show_default="sample",
    help="What a Megatron document is: one sample, or a packed row of exactly --seq-length tokens.",
)
@click.option("--epochs", type=int, help="Number of epochs to write, each in an order of its own.")
@model_option
@seq_length_option
@video_template_option
@loss_options
@seed_option
@skip_damaged_option
@explains_mixtures
def export(options: ExportOptions | SequenceExportOptions) -> None:
    """Write rows of codes, or the token sequences that `emu3 sft` trains on, to OUT in another format.

    webdataset, parquet and pth take one dataset and write its rows as WebDataset tars, Parquet files, or a list of
    .pth files (int64). megatron (.bin and .idx, with the loss mask beside them) and mindrecord take a mixture of
    datasets, as `emu3 sft` does, and the options after --shard-mb.
    """
    from shared.exchange.options import ExportOptions

    if isinstance(options, ExportOptions):
        _export_rows(options)
    else:
        _export_sequences(options)


def _export_rows(options: ExportOptions) -> None:
    from shared.exchange.export import export as run

    result = run(options)
    say(f"{options.out}: {result.rows} rows in {result.files} files of {result.size_bytes} bytes, {result.written} new")
    if result.skipped:
        say(f"{result.skipped} rows skipped: they hold no codes, which {options.format} cannot represent")


def _export_sequences(options: SequenceExportOptions) -> None:
    from lm_stage.export.job import export_sequences

    result = export_sequences(options)
    say(
        f"{options.out}: {result.documents} documents of {result.samples} samples, {result.tokens} tokens,"
        f" {result.supervised} supervised, {result.size_bytes} bytes{'' if result.is_new else '; already present'}"
    )
    if result.too_long or result.damaged:
        say(
            f"skipped: {result.too_long} samples too long for a row, {result.damaged} damaged"
            f" ({options.out}/left_out.jsonl)"
        )
