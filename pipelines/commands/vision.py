"""Commands of the vision stage. Heavy imports wait until a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipelines.commands.build import choose_engine, options_command
from pipelines.commands.options import device_option, engine_options, model_options, say, vision_tokenizer_option

if TYPE_CHECKING:
    from vq_stage.decode.options import DecodeOptions
    from vq_stage.encode.options import EncodeOptions
    from vq_stage.encode.repair import RepairOptions
    from vq_stage.training.options import TrainVQOptions


def source_options(command: Any) -> Any:
    """Options of how a source is cut into units: sizes, clips, duplicates."""
    for option in reversed(
        [
            click.option("--resize", "rule", type=click.Choice(["processor", "area", "none"])),
            click.option("--area", type=int, show_default="720²", help="Pixels to scale to with --resize area."),
            click.option("--round-to", type=int, help="Sides become multiples of it: 64 gives few sizes."),
            click.option("--clip-frames", "frames", type=int, help="Frames of a clip of a video, a multiple of 4."),
            click.option("--fps", type=float, show_default="8", help="Frames a second taken from videos."),
            click.option("--stride", type=int, help="Take every so many-th frame of videos, instead of --fps."),
            click.option("--start-s", type=float, help="Seconds of videos passed over."),
            click.option("--duration-s", type=float, show_default="all", help="Seconds of videos used."),
            click.option("--unit-rows", type=int, help="Inputs a unit of work, committed together."),
            click.option("--reader-threads", type=int, help="Threads that read and resize images."),
            click.option("--duplicates", type=click.Choice(["keep", "once"]), help="Of equal files."),
            click.option("--max-refused-in-a-row", type=int, help="Stop when so many in a row are bad."),
        ]
    ):
        command = option(command)
    return command


@options_command("vq_stage.encode.options:EncodeOptions", adjust=choose_engine)
@click.argument("source")
@click.argument("dataset")
@model_options
@source_options
@engine_options
@click.option("--batch-pixels", type=int, help="Pixels a batch at most (at least one image).")
@click.option("--quality-samples", type=int, help="Inputs a unit to decode again for PSNR and SSIM.")
@click.option("--allow-numerics-change", is_flag=True, help="Resume on another device, dtype or MindSpore.")
@click.option("--retry-quarantined", multiple=True, metavar="REASON", help="Try inputs refused for REASON again.")
def encode(options: EncodeOptions) -> None:
    """Encode the images and videos of SOURCE into the code shards of DATASET; the same command resumes.

    Run again, it also takes in what SOURCE has new. SOURCE is a folder (captions: a .txt of the same name,
    metadata.jsonl or captions.csv), WebDataset tars ('{00000..00099}.tar'), Parquet or Arrow files, a .json/.jsonl
    list of {name|key, image|video, text} or of conversations, or - for such lines on stdin; here or by a URL (s3://…).
    """
    from vq_stage.encode.job import encode as run

    result = run(options)
    say(f"{options.dataset}: {result.rows} rows encoded, {result.quarantined} quarantined in {result.elapsed_s:.1f} s")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


@options_command("vq_stage.encode.options:EncodeOptions", adjust=lambda parameters: {"dataset": "", **parameters})
@click.argument("source")
@source_options
@click.option("--megapixels-per-s", type=float, help="Rate of a device, for device-hours.")
@click.option("--measured-in", metavar="DATASET", help="Take the rate from the log of a dataset encoded before.")
@click.option("--seq-length", type=int, default=8192, help="Tokens of a row in SFT.")
def plan(options: EncodeOptions, megapixels_per_s: float | None, measured_in: str | None, seq_length: int) -> None:
    """Tell what encoding SOURCE would take, from headers: sizes, compiles, hours, gigabytes, SFT tokens, refusals."""
    from pipelines.report.text import forecast_text
    from shared.dataset.dataset import Dataset
    from vq_stage.encode.estimate import forecast, measured_megapixels_per_s
    from vq_stage.encode.planner import Planner

    rate = megapixels_per_s or (measured_megapixels_per_s(Dataset.open(measured_in)) if measured_in else None)
    click.echo(forecast_text(forecast(Planner(options)), rate, seq_length))


@options_command("vq_stage.decode.options:DecodeOptions", adjust=choose_engine)
@click.argument("dataset")
@click.argument("out")
@model_options
@engine_options
@click.option("--format", "image", type=click.Choice(["png", "jpg", "webp"]))
@click.option("--video-format", "video", type=click.Choice(["mp4", "webm", "webp", "frames"]))
@click.option("--quality", type=int, help="Of jpg, webp and videos, 1 to 100.")
@click.option("--batch-pixels", type=int, help="Pixels a batch at most (at least one image).")
def decode(options: DecodeOptions) -> None:
    """Decode the codes of DATASET into pictures and videos in OUT, named by key; the same command resumes."""
    from vq_stage.decode.job import decode as run

    result = run(options)
    say(f"{options.out}: {result.written} files written, {result.skipped} were there")
    for key, error in result.invalid:
        say(f"{key}: no picture: {error}")


@options_command("vq_stage.encode.repair:RepairOptions")
@click.argument("dataset")
@click.argument("source", required=False)
@vision_tokenizer_option
@device_option
def repair(options: RepairOptions) -> None:
    """Set damaged units of DATASET aside, keep what is whole, and encode the damaged rows again from SOURCE.

    Without SOURCE the command that made DATASET, run again, computes what is missing.
    """
    from vq_stage.encode.repair import repair as run

    result = run(options)
    for unit in result.set_aside:
        say(f"unit {unit.unit}: {unit.kept} of {unit.rows} rows kept: {unit.problem}")
    for number, is_same in result.reencoded:
        say(f"unit {number}: encoded again, {'the same bytes as before' if is_same else 'OTHER bytes than before'}")
    if result.missing:
        say(f"{result.missing} units are missing: run the command that made {options.dataset} again")
    elif not result.set_aside:
        say(f"{options.dataset}: nothing is damaged")


@options_command("vq_stage.training.options:TrainVQOptions", "train-vq")
@click.argument("source")
@click.argument("out")
@click.option("--config", metavar="FILE.json", help="Train from random weights a tokenizer of this config.")
@click.option("--init-from", metavar="DIR", help="Fine-tune this tokenizer.")
@click.option("--steps", type=int)
@click.option("--crop", type=int, help="Pixels a side of a training crop.")
@click.option("--batch", type=int, help="Crops a step.")
@click.option("--clip-share", type=float, help="Share of steps on 4-frame clips, made by panning.")
@click.option("--learning-rate", type=float)
@click.option("--warmup", type=int, help="Steps of linear warm-up.")
@click.option("--commitment", type=float, help="Weight of the commitment loss.")
@click.option("--codebook-decay", type=float, help="Of the codebook's moving averages.")
@click.option("--quantize-from", type=int, help="Step at which quantisation begins to blend in.")
@click.option("--quantize-fully-from", type=int, help="Step from which all latents are quantised.")
@click.option("--seed", type=int)
@click.option("--save-every", type=int, help="Steps between checkpoints and sample pictures.")
@click.option("--save-dtype", type=click.Choice(["float32", "float16"]), help="Of the weights.")
@click.option("--reader-threads", type=int, help="Threads that read and crop ahead of the device.")
@device_option
def train_vq(options: TrainVQOptions) -> None:
    """Train or fine-tune a vision tokenizer on the pictures of SOURCE; the same command resumes."""
    from vq_stage.training.job import train_vq as run

    say(f"tokenizer written to {run(options)}")
