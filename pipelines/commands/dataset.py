"""Commands that inspect datasets and convert them; none needs a model. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pipelines.commands.build import options_command
from pipelines.commands.options import left_to_others, say, unit_rows_option, vision_tokenizer_option

if TYPE_CHECKING:
    from shared.codec import Codec
    from shared.exchange.options import ImportOptions
    from shared.maintenance.options import SealOptions


@click.command()
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
@click.option("--sheet", metavar="FILE.png", help="Also write a contact sheet of decoded pictures with captions.")
@click.option("--sheet-rows", type=int, default=64, help="Number of pictures on the contact sheet.")
@vision_tokenizer_option
def inspect(dataset: str, as_json: bool, sheet: str | None, sheet_rows: int, vision_tokenizer: str | None) -> None:
    """Show the contents of DATASET: rows, sizes, codebook usage, quality, quarantined inputs, speed."""
    from pipelines.report.text import summary_text
    from shared.dataset.dataset import Dataset
    from shared.maintenance.summary import summarize

    summary = summarize(Dataset.open(dataset))
    click.echo(json.dumps(summary.to_dict(), indent=2) if as_json else summary_text(summary))
    if sheet:
        from vq_stage.decode.contact_sheet import draw_contact_sheet
        from vq_stage.model.weights import EMBEDDED_TOKENIZER

        draw_contact_sheet(dataset, sheet, sheet_rows, vision_tokenizer or str(EMBEDDED_TOKENIZER))
        say(f"contact sheet: {sheet}")


@click.command()
@click.argument("dataset")
def verify(dataset: str) -> None:
    """Check every file and row of DATASET, list all damage, and print the dataset digest on the last line."""
    from tqdm import tqdm

    from shared.dataset.dataset import Dataset
    from shared.errors import RelayError
    from shared.maintenance.verify import verify_dataset

    opened = Dataset.open(dataset)
    with tqdm(total=len(opened.committed_units()), unit="unit", desc="verify", disable=None) as bar:
        report = verify_dataset(opened, on_unit=bar.update)
    for problem in report.problems:
        say(f"damaged: {problem}")
    for name in report.unfinished:
        say(f"in progress, or left by a killed job: {name}")
    missing = f"NOT complete: {report.missing_inputs} inputs are missing; run the command that writes the dataset again"
    state = "complete" if report.is_complete else missing
    say(
        f"{report.units} of {report.planned_units} units, {report.rows} rows, {report.quarantined} quarantined; {state}"
    )
    if report.digest and report.intact_units < report.planned_units:
        say(f"this is the digest of {report.intact_units} of {report.planned_units} units:")
    if report.digest:
        click.echo(report.digest)
    sys.exit(RelayError.exit_code if report.problems else 0)


@options_command("shared.maintenance.options:SealOptions")
@click.argument("dataset")
@click.option("--shard-mb", type=int, help="Minimum size of a shard in MiB.")
@click.option("--keep-parts", is_flag=True, help="Keep the parts beside the shards.")
def seal(options: SealOptions) -> None:
    """Merge the parts of a complete DATASET into shards with an index.

    Run it again to add parts that were committed later.
    """
    from shared.maintenance.seal import seal as run

    result = run(options)
    say(
        f"{options.dataset}: {result.rows} rows in {result.shards} shards of {result.bytes} bytes, {result.written} new"
    )


@options_command("shared.exchange.options:ImportOptions", "import")
@click.argument("source")
@click.argument("dataset")
@unit_rows_option
@click.option("--codebook-size", type=int, help="Codebook size, which .pth files do not record.")
@click.option(
    "--vision-tokenizer",
    metavar="DIR",
    help="Directory of the tokenizer that made .pth files; in place of --codebook-size.",
)
def import_(options: ImportOptions, codebook_size: int | None, vision_tokenizer: str | None) -> None:
    """Create DATASET from SOURCE: WebDataset tars or Parquet files of `emu3 export`, or a list of Emu3's .pth files."""
    from shared.exchange.importer import import_dataset

    result = import_dataset(replace(options, codec=_codec(codebook_size, vision_tokenizer)))
    say(f"{options.dataset}: {result.rows} rows imported, {result.quarantined} quarantined")
    if result.units_missing:
        raise left_to_others(options.dataset, result.units_missing)


def _codec(codebook_size: int | None, vision_tokenizer: str | None) -> Codec | None:
    """The codec of .pth files, if it was given."""
    from shared.codec import Codec
    from vq_stage.model.codec import read_codec

    if vision_tokenizer:
        return read_codec(vision_tokenizer)
    return Codec.published(codebook_size) if codebook_size else None
