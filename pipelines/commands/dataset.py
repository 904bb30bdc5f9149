"""Commands that look at datasets, and bring them into other forms; none needs a model. Imports wait until one runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pipelines.commands.build import options_command
from pipelines.commands.options import say, vision_tokenizer_option

if TYPE_CHECKING:
    from shared.codec import Codec
    from shared.exchange.options import ExportOptions, ImportOptions
    from shared.maintenance.seal import SealOptions


@click.command()
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--sheet", metavar="FILE.png", help="Also draw a contact sheet of decoded pictures with captions.")
@click.option("--sheet-rows", type=int, default=64, help="Pictures on the sheet, spread over the dataset.")
@vision_tokenizer_option
def inspect(dataset: str, as_json: bool, sheet: str | None, sheet_rows: int, vision_tokenizer: str | None) -> None:
    """Show what is in DATASET: rows, sizes, codebook use, quality, quarantine, speed."""
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
    """Check every file and row of DATASET; name what is wrong; print the dataset digest last."""
    from tqdm import tqdm

    from shared.dataset.dataset import Dataset
    from shared.maintenance.verify import verify_dataset

    opened = Dataset.open(dataset)
    with tqdm(total=len(opened.committed_units()), unit="unit", desc="verify", disable=None) as bar:
        report = verify_dataset(opened, on_unit=bar.update)
    for problem in report.problems:
        say(f"damaged: {problem}")
    state = "complete" if report.is_complete else "NOT complete: run the same command again"
    say(
        f"{report.units} of {report.planned_units} units, {report.rows} rows, {report.quarantined} quarantined; {state}"
    )
    if report.digest:
        click.echo(report.digest)
    sys.exit(1 if report.problems else 0)


@options_command("shared.maintenance.seal:SealOptions")
@click.argument("dataset")
@click.option("--shard-mb", type=int, help="Megabytes a shard.")
@click.option("--keep-parts", is_flag=True, help="Leave the parts where they are too.")
def seal(options: SealOptions) -> None:
    """Merge the parts of a complete DATASET into shards with an index; what was added later joins them."""
    from shared.maintenance.seal import seal as run

    result = run(options)
    say(
        f"{options.dataset}: {result.rows} rows in {result.shards} shards of {result.bytes} bytes, {result.written} new"
    )


@options_command("shared.exchange.options:ExportOptions")
@click.argument("dataset")
@click.argument("out")
@click.option("--format", type=click.Choice(["webdataset", "parquet", "pth"]))
@click.option("--shard-mb", type=int, help="Megabytes a file at most.")
def export(options: ExportOptions) -> None:
    """Write the rows of DATASET into OUT as WebDataset tars, Parquet, or upstream's .pth files (int64) with a list."""
    from shared.exchange.export import export as run

    result = run(options)
    say(f"{options.out}: {result.rows} rows in {result.files} files of {result.size_bytes} bytes, {result.written} new")
    if result.skipped:
        say(f"{result.skipped} rows skipped: they hold no codes, which {options.format} cannot represent")


@options_command("shared.exchange.options:ImportOptions", "import")
@click.argument("source")
@click.argument("dataset")
@click.option("--unit-rows", type=int, help="Rows a unit, committed together.")
@click.option("--codebook-size", type=int, help="Of the codes of upstream's files, which do not say.")
@click.option("--vision-tokenizer", metavar="DIR", help="That made them; instead of --codebook-size.")
def import_(options: ImportOptions, codebook_size: int | None, vision_tokenizer: str | None) -> None:
    """Make DATASET of WebDataset tars or Parquet that `emu3 export` wrote, or of upstream's list of .pth files."""
    from shared.exchange.importer import import_dataset

    result = import_dataset(replace(options, codec=_codec(codebook_size, vision_tokenizer)))
    say(f"{options.dataset}: {result.rows} rows imported, {result.quarantined} quarantined")


def _codec(codebook_size: int | None, vision_tokenizer: str | None) -> Codec | None:
    """Whose codes upstream's files hold, if that was given."""
    from shared.codec import Codec
    from vq_stage.model.config import VQConfig
    from vq_stage.model.weights import codec_fingerprint

    if vision_tokenizer:
        size = VQConfig.from_directory(vision_tokenizer).codebook_size
        return Codec(codec_fingerprint(vision_tokenizer), size)
    return Codec(None, codebook_size) if codebook_size else None
