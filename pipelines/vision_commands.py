"""Commands of the vision stage, and those that look at datasets. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from pipelines.options import given, model_options, say


@click.command()
@click.argument("source")
@click.argument("dataset")
@model_options
@click.option("--resize", "rule", type=click.Choice(["processor", "area", "none"]), default="processor")
@click.option("--area", type=int, default=720 * 720, help="Pixels to scale to with --resize area.")
@click.option("--round-to", type=int, default=8, help="Sides become multiples of it: 64 gives few sizes to compile.")
@click.option("--unit-rows", type=int, default=256, help="Images a unit of work, committed together.")
@click.option("--batch-pixels", type=int, default=512 * 512, help="Pixels a batch at most (at least one image).")
@click.option("--quality-samples", type=int, default=1, help="Images a unit to decode again for PSNR and SSIM.")
@click.option("--readers", type=int, default=2, help="Threads that read and resize ahead of the device.")
@click.option("--allow-numerics-change", is_flag=True, help="Resume on another device, dtype or MindSpore.")
@click.option("--max-refused-in-a-row", type=int, default=1000, help="Stop when so many inputs in a row are bad.")
def encode(source: str, dataset: str, rule: str, area: int, round_to: int, **others: Any) -> None:
    """Encode the pictures of SOURCE into the code shards of DATASET; the same command resumes.

    SOURCE is a folder of images (captions: a .txt of the same name, metadata.jsonl or captions.csv) or a
    .json/.jsonl list of {name|key, image, text}.
    """
    from vq_stage.encode import EncodeOptions
    from vq_stage.encode import encode as run
    from vq_stage.preprocess import Preprocessing

    result = run(EncodeOptions(source, dataset, preprocessing=Preprocessing(rule, area, round_to), **given(others)))
    say(f"{dataset}: {result.rows} images encoded, {result.quarantined} quarantined in {result.elapsed_s:.1f} s")
    if result.inputs_added_since:
        say(f"{result.inputs_added_since} inputs came after the plan was frozen; encode them into another dataset")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


@click.command()
@click.argument("dataset")
@click.argument("out")
@model_options
@click.option("--format", type=click.Choice(["png", "jpg", "webp"]), default="png")
@click.option("--quality", type=int, default=95, help="Of jpg and webp, 1 to 100.")
@click.option("--batch-pixels", type=int, default=512 * 512, help="Pixels a batch at most (at least one image).")
def decode(dataset: str, out: str, **others: Any) -> None:
    """Decode the codes of DATASET into pictures in OUT, named by key; the same command resumes."""
    from vq_stage.decode import DecodeOptions
    from vq_stage.decode import decode as run

    result = run(DecodeOptions(dataset, out, **given(others)))
    say(f"{out}: {result.written} pictures written, {result.skipped} were there")
    for key, error in result.invalid:
        say(f"{key}: no picture: {error}")


@click.command()
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--sheet", metavar="FILE.png", help="Also draw a contact sheet of decoded pictures with captions.")
@click.option("--sheet-rows", type=int, default=64, help="Pictures on the sheet, spread over the dataset.")
@click.option("--vision-tokenizer", metavar="DIR", help="Tokenizer for the sheet.  [default: embedded emu3-tiny]")
def inspect(dataset: str, as_json: bool, sheet: str | None, sheet_rows: int, vision_tokenizer: str | None) -> None:
    """Show what is in DATASET: rows, sizes, codebook use, quality, quarantine, speed."""
    from pipelines.report import summary_text
    from shared.dataset import Dataset
    from shared.summary import summarize

    summary = summarize(Dataset.open(dataset))
    click.echo(json.dumps(summary.to_dict(), indent=2) if as_json else summary_text(summary))
    if sheet:
        from vq_stage.contact_sheet import draw_contact_sheet

        draw_contact_sheet(dataset, sheet, sheet_rows, **given({"vision_tokenizer": vision_tokenizer}))
        say(f"contact sheet: {sheet}")


@click.command()
@click.argument("dataset")
def verify(dataset: str) -> None:
    """Check every file and row of DATASET; name what is wrong; print the dataset digest last."""
    from tqdm import tqdm

    from shared.dataset import Dataset
    from shared.verify import verify_dataset

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


@click.command("train-vq")
@click.argument("source")
@click.argument("out")
@click.option("--config", metavar="FILE.json", help="Train from random weights a tokenizer of this config.")
@click.option("--init-from", metavar="DIR", help="Fine-tune this tokenizer.")
@click.option("--steps", type=int, default=20_000)
@click.option("--crop", type=int, default=64, help="Pixels a side of a training crop.")
@click.option("--batch", type=int, default=8, help="Crops a step.")
@click.option("--clip-share", type=float, default=0.2, help="Share of steps on 4-frame clips, made by panning.")
@click.option("--learning-rate", type=float, default=3e-4)
@click.option("--warmup", type=int, default=100, help="Steps of linear warm-up.")
@click.option("--commitment", type=float, default=0.25, help="Weight of the commitment loss.")
@click.option("--codebook-decay", type=float, default=0.98, help="Of the codebook's moving averages.")
@click.option("--quantize-from", type=int, default=20, help="Step at which quantisation begins to blend in.")
@click.option("--quantize-fully-from", type=int, default=200, help="Step from which all latents are quantised.")
@click.option("--seed", type=int, default=0)
@click.option("--save-every", type=int, default=200, help="Steps between checkpoints and sample pictures.")
@click.option("--save-dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of the weights.")
@click.option("--readers", type=int, default=2, help="Threads that read and crop ahead of the device.")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto")
def train_vq(source: str, out: str, **others: Any) -> None:
    """Train or fine-tune a vision tokenizer on the pictures of SOURCE; the same command resumes."""
    from vq_stage.train import TrainVQOptions
    from vq_stage.train import train_vq as run

    say(f"tokenizer written to {run(TrainVQOptions(source, out, **given(others)))}")
