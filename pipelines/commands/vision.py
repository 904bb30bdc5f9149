"""Commands of the vision stage. Heavy imports wait until a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipelines.commands.options import engine_options, given, model_options, say, with_engine

if TYPE_CHECKING:
    from vq_stage.decode.job import DecodeOptions
    from vq_stage.encode.options import EncodeOptions
    from vq_stage.training.job import TrainVQOptions


def source_options(command: Any) -> Any:
    """Options of how a source is cut into units: sizes, clips, duplicates."""
    for option in reversed(
        [
            click.option("--resize", type=click.Choice(["processor", "area", "none"]), default="processor"),
            click.option("--area", type=int, help="Pixels to scale to with --resize area.  [default: 720²]"),
            click.option("--round-to", type=int, default=8, help="Sides become multiples of it: 64 gives few sizes."),
            click.option("--clip-frames", type=int, default=16, help="Frames of a clip of a video, a multiple of 4."),
            click.option("--fps", type=float, help="Frames a second taken from videos.  [default: 8]"),
            click.option("--stride", type=int, help="Take every so many-th frame of videos, instead of --fps."),
            click.option("--start-s", type=float, default=0.0, help="Seconds of videos passed over."),
            click.option("--duration-s", type=float, help="Seconds of videos used.  [default: all]"),
            click.option("--unit-rows", type=int, default=256, help="Inputs a unit of work, committed together."),
            click.option("--reader-threads", type=int, default=2, help="Threads that read and resize images."),
            click.option("--duplicates", type=click.Choice(["keep", "once"]), default="keep", help="Of equal files."),
            click.option("--max-refused-in-a-row", type=int, default=1000, help="Stop when so many in a row are bad."),
        ]
    ):
        command = option(command)
    return command


def _cut(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those of sizes and clips gathered into their objects."""
    from vq_stage.media.resizing import Preprocessing
    from vq_stage.video.clips import ClipSampling

    preprocessing = Preprocessing(*(options.pop(name) for name in ("resize", "area", "round_to")))
    sampling = ClipSampling(*(options.pop(name) for name in ("clip_frames", "fps", "stride", "start_s", "duration_s")))
    return {**options, "preprocessing": preprocessing, "sampling": sampling}


@click.command()
@click.argument("source")
@click.argument("dataset")
@model_options
@source_options
@engine_options
@click.option("--batch-pixels", type=int, default=512 * 512, help="Pixels a batch at most (at least one image).")
@click.option("--quality-samples", type=int, default=1, help="Inputs a unit to decode again for PSNR and SSIM.")
@click.option("--allow-numerics-change", is_flag=True, help="Resume on another device, dtype or MindSpore.")
@click.option("--retry-quarantined", multiple=True, metavar="REASON", help="Try inputs refused for REASON again.")
def encode(source: str, dataset: str, **others: Any) -> None:
    """Encode the images and videos of SOURCE into the code shards of DATASET; the same command resumes.

    Run again, it also takes in what SOURCE has new. SOURCE is a folder (captions: a .txt of the same name,
    metadata.jsonl or captions.csv), WebDataset tars ('{00000..00099}.tar'), Parquet or Arrow files, a .json/.jsonl
    list of {name|key, image|video, text} or of conversations, or - for such lines on stdin; here or by a URL (s3://…).
    """
    from vq_stage.encode.job import encode as run

    result = run(encode_settings(source, dataset, **others))
    say(f"{dataset}: {result.rows} rows encoded, {result.quarantined} quarantined in {result.elapsed_s:.1f} s")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


def encode_settings(source: str, dataset: str, **others: Any) -> EncodeOptions:
    """Raises UsageError, as those below do, for options that cannot work."""
    from vq_stage.encode.options import EncodeOptions

    return EncodeOptions(source, dataset, **with_engine(_cut(others)))


@click.command()
@click.argument("source")
@source_options
@click.option("--megapixels-per-s", type=float, help="Rate of a device, for device-hours.")
@click.option("--measured-in", metavar="DATASET", help="Take the rate from the log of a dataset encoded before.")
@click.option("--seq-length", type=int, default=8192, help="Tokens of a row in SFT.")
def plan(source: str, megapixels_per_s: float | None, measured_in: str | None, seq_length: int, **others: Any) -> None:
    """Tell what encoding SOURCE would take, from headers: sizes, compiles, hours, gigabytes, SFT tokens, refusals."""
    from pipelines.report.text import forecast_text
    from shared.dataset.dataset import Dataset
    from vq_stage.encode.estimate import forecast, measured_megapixels_per_s
    from vq_stage.encode.options import EncodeOptions

    rate = megapixels_per_s or (measured_megapixels_per_s(Dataset.open(measured_in)) if measured_in else None)
    click.echo(forecast_text(forecast(EncodeOptions(source, "", **given(_cut(others))).planner()), rate, seq_length))


@click.command()
@click.argument("dataset")
@click.argument("out")
@model_options
@engine_options
@click.option("--format", "image", type=click.Choice(["png", "jpg", "webp"]), default="png")
@click.option("--video-format", "video", type=click.Choice(["mp4", "webm", "webp", "frames"]), default="mp4")
@click.option("--quality", type=int, default=95, help="Of jpg, webp and videos, 1 to 100.")
@click.option("--batch-pixels", type=int, default=512 * 512, help="Pixels a batch at most (at least one image).")
def decode(dataset: str, out: str, **others: Any) -> None:
    """Decode the codes of DATASET into pictures and videos in OUT, named by key; the same command resumes."""
    from vq_stage.decode.job import decode as run

    result = run(decode_settings(dataset, out, **others))
    say(f"{out}: {result.written} files written, {result.skipped} were there")
    for key, error in result.invalid:
        say(f"{key}: no picture: {error}")


def decode_settings(dataset: str, out: str, image: str, video: str, quality: int, **others: Any) -> DecodeOptions:
    from vq_stage.decode.job import DecodeOptions
    from vq_stage.decode.output_files import MediaFormats

    return DecodeOptions(dataset, out, formats=MediaFormats(image, video, quality), **with_engine(others))


@click.command()
@click.argument("dataset")
@click.argument("source", required=False)
@click.option("--vision-tokenizer", metavar="DIR", help="Tokenizer directory.  [default: embedded emu3-tiny]")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto")
def repair(dataset: str, source: str | None, vision_tokenizer: str | None, device: str) -> None:
    """Set damaged units of DATASET aside, keep what is whole, and encode the damaged rows again from SOURCE.

    Without SOURCE the command that made DATASET, run again, computes what is missing.
    """
    from vq_stage.encode.repair import RepairOptions
    from vq_stage.encode.repair import repair as run

    result = run(RepairOptions(dataset, source, device=device, **given({"vision_tokenizer": vision_tokenizer})))
    for unit in result.set_aside:
        say(f"unit {unit.unit}: {unit.kept} of {unit.rows} rows kept: {unit.problem}")
    for number, is_same in result.mended:
        say(f"unit {number}: encoded again, {'the same bytes as before' if is_same else 'OTHER bytes than before'}")
    if result.missing:
        say(f"{result.missing} units are missing: run the command that made {dataset} again")
    elif not result.set_aside:
        say(f"{dataset}: nothing is damaged")


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
@click.option("--reader-threads", type=int, default=2, help="Threads that read and crop ahead of the device.")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto")
def train_vq(**options: Any) -> None:
    """Train or fine-tune a vision tokenizer on the pictures of SOURCE; the same command resumes."""
    from vq_stage.training.job import train_vq as run

    say(f"tokenizer written to {run(train_vq_settings(**options))}")


def train_vq_settings(**options: Any) -> TrainVQOptions:
    from vq_stage.training.job import TrainVQOptions

    return TrainVQOptions(**given(options))
