"""Commands of the vision stage. Heavy imports wait until a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipelines.commands.build import options_command
from pipelines.commands.options import (
    FAMILY,
    batch_pixels_option,
    choose_engine,
    device_option,
    engine_options,
    kernels_option,
    left_to_others,
    numerics_option,
    save_dtype_option,
    say,
    seed_option,
    source_options,
    vision_tokenizer_option,
    vision_tokenizer_options,
)
from shared.errors import NothingDoneError, UsageError

if TYPE_CHECKING:
    from vq_stage.decode.options import DecodeOptions
    from vq_stage.encode.options import EncodeOptions, RepairOptions
    from vq_stage.training.options import TrainVQOptions

MAX_ROWS_LISTED = 100  # without an image, on stderr
MAX_REASONS = 8


@options_command("vq_stage.encode.options:EncodeOptions", adjust=choose_engine)
@click.argument("source")
@click.argument("dataset")
@vision_tokenizer_options
@source_options
@engine_options
@batch_pixels_option
@click.option("--quality-samples", type=int, help="Inputs per unit that are decoded again to measure PSNR and SSIM.")
@numerics_option
@click.option(
    "--retry-quarantined",
    multiple=True,
    metavar="REASON",
    help="Retry inputs that were quarantined for this reason; may be repeated.",
)
@click.option(
    "--update-texts",
    is_flag=True,
    help="Replace captions and labels that have changed in SOURCE, without encoding anything again.",
)
def encode(options: EncodeOptions) -> None:
    """Encode the images and videos of SOURCE into the code shards of DATASET.

    The same command resumes an interrupted run, and adds what is new in SOURCE. SOURCE is a folder (captions: a .txt
    file of the same name, metadata.jsonl or captions.csv), WebDataset tars ('{00000..00099}.tar'), Parquet or Arrow
    files, a .json or .jsonl list of {name|key, image|video, text} or of conversations, or - for such lines on stdin.
    Paths may be URLs (s3://…).
    """
    from pipelines.report.text import counts_text
    from vq_stage.encode.job import encode as run

    result, dataset = run(options), options.dataset
    refused, reasons = sum(result.quarantined.values()), counts_text(result.quarantined)
    listed = f": {reasons}" if refused else ""
    say(f"{dataset}: {result.rows} rows encoded, {refused} quarantined in {result.elapsed_s:.1f} s{listed}")
    if result.units_missing:
        raise left_to_others(dataset, result.units_missing)
    if result.is_fruitless:
        raise NothingDoneError(f"{dataset}: no input could be encoded; {dataset}/quarantine has the details{listed}")


@options_command("vq_stage.encode.options:EncodeOptions", adjust=lambda parameters: {"dataset": "", **parameters})
@click.argument("source")
@vision_tokenizer_option
@source_options
@click.option("--megapixels-per-s", type=float, help="Encoding speed of one device in megapixels per second.")
@click.option("--measured-in", metavar="DATASET", help="Take the encoding speed from the log of this dataset.")
@click.option("--seq-length", type=int, default=8192, help="Tokens per packed row during fine-tuning.")
@click.option(
    "--prompting",
    type=FAMILY,
    default="emu3",
    help="Form of sequences during fine-tuning: that of Emu3 (emu3) or of Emu3.5 (emu35).",
)
def plan(
    options: EncodeOptions, megapixels_per_s: float | None, measured_in: str | None, seq_length: int, prompting: str
) -> None:
    """Estimate what encoding SOURCE would take, from the headers of its files.

    Shows sizes, compiled graphs, device-hours, gigabytes, tokens for fine-tuning, and inputs that would be refused.
    """
    from lm_stage.text.prompting import PROMPTINGS
    from pipelines.report.text import counts_text, forecast_text
    from vq_stage.encode.estimate import forecast, known_megapixels_per_s
    from vq_stage.encode.planner import Planner
    from vq_stage.model.codec import read_factors

    if seq_length < 1:
        raise UsageError(f"--seq-length {seq_length}: expected at least 1 token")
    rate = known_megapixels_per_s(megapixels_per_s, measured_in)
    planner = Planner(options, read_factors(options.vision_tokenizer))
    found = forecast(planner, PROMPTINGS[prompting].text_to_image_form)
    for line in planner.source.report.lines():
        say(line)
    click.echo(forecast_text(found, rate, seq_length))
    if not found.rows:
        raise NothingDoneError(f"{options.source}: no input can be encoded: {counts_text(found.quarantined)}")


@options_command("vq_stage.decode.options:DecodeOptions", adjust=choose_engine)
@click.argument("dataset")
@click.argument("out")
@vision_tokenizer_options
@engine_options
@click.option("--format", "image", type=click.Choice(["png", "jpg", "webp"]), help="File format of images.")
@click.option(
    "--video-format", "video", type=click.Choice(["mp4", "webm", "webp", "frames"]), help="File format of videos."
)
@click.option("--quality", type=int, help="Quality of JPEG, WebP and video files, from 1 to 100.")
@batch_pixels_option
def decode(options: DecodeOptions) -> None:
    """Decode the codes of DATASET into image and video files in OUT, named by key.

    The same command resumes an interrupted run.
    """
    from pipelines.report.text import counts_text
    from vq_stage.decode.job import decode as run

    result = run(options)
    for key, error in result.invalid[:MAX_ROWS_LISTED]:
        say(f"{key}: not decoded: {error}")
    reasons = counts_text(result.reasons, MAX_REASONS)
    invalid = f", {len(result.invalid)} rows without an image: {reasons}" if result.invalid else ""
    say(f"{options.out}: {result.written} files written, {result.skipped} already present{invalid}")
    if result.units_left:
        raise left_to_others(options.out, result.units_left)
    if not result.written + result.skipped and options.engine.rank_count == 1:
        why = f"no row of {options.dataset} has an image: {reasons}" if invalid else f"{options.dataset} has no rows"
        raise NothingDoneError(f"{options.out}: nothing was decoded: {why}")


@options_command("vq_stage.encode.options:RepairOptions")
@click.argument("dataset")
@click.argument("source", required=False)
@vision_tokenizer_option
@device_option
def repair(options: RepairOptions) -> None:
    """Set damaged units of DATASET aside, keep their intact rows, and encode the damaged rows again from SOURCE.

    Without SOURCE nothing is encoded: run the command that created DATASET again to compute what is missing.
    """
    from vq_stage.encode.repair import repair as run

    result = run(options)
    for what in result.restored:
        say(what)
    for unit in result.set_aside:
        say(f"unit {unit.unit}: {unit.kept} of {unit.rows} rows kept: {unit.problem}")
    for number, is_same in result.reencoded:
        say(f"unit {number}: encoded again, {'the same bytes as before' if is_same else 'DIFFERENT bytes than before'}")
    if result.missing and options.source:
        raise left_to_others(options.dataset, result.missing)
    if result.missing:
        say(f"{result.missing} units are missing: run the command that created {options.dataset} again")
    elif not result.set_aside and not result.restored:
        say(f"{options.dataset}: nothing is damaged")


@options_command("vq_stage.training.options:TrainVQOptions", "train-vq")
@click.argument("source")
@click.argument("out")
@click.option("--config", metavar="FILE.json", help="Config of a new tokenizer, trained from random weights.")
@click.option("--init-from", metavar="DIR", help="Directory of a tokenizer to fine-tune.")
@click.option("--steps", type=int, help="Number of training steps.")
@click.option("--crop", type=int, help="Side of a training crop in pixels.")
@click.option("--batch", type=int, help="Batch size: number of crops per step.")
@click.option(
    "--clip-share",
    type=float,
    show_default="0.2, or 0 for a tokenizer of images only",
    help="Share of steps that train on clips of the frames of one code, 4 for Emu3, made by panning.",
)
@click.option("--learning-rate", type=float, help="Learning rate after the warm-up.")
@click.option("--warmup", type=int, help="Steps of linear learning-rate warm-up.")
@click.option("--commitment", type=float, help="Weight of the commitment loss.")
@click.option(
    "--codebook-decay",
    type=float,
    help="Decay of the moving averages of how codes are used, which update Emu3's codebook.",
)
@click.option("--quantize-from", type=int, help="Step from which quantized latents are blended in.")
@click.option("--quantize-fully-from", type=int, help="Step from which all latents are quantized.")
@seed_option
@click.option("--save-every", type=int, help="Steps between checkpoints and sample pictures.")
@save_dtype_option
@click.option("--reader-threads", type=int, help="Threads that read and crop ahead of the device.")
@device_option
@kernels_option
def train_vq(options: TrainVQOptions) -> None:
    """Train or fine-tune a vision tokenizer on the pictures of SOURCE and write it to OUT.

    The same command resumes an interrupted run.
    """
    from vq_stage.training.job import train_vq as run

    say(f"tokenizer written to {run(options)}")
