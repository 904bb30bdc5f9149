"""Options that several commands share. Their defaults are those of the options dataclasses; see build.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipelines.commands.build import ChoiceOf, Parameters
from shared.errors import Interrupted
from shared.mindone import BACKENDS

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]
DTYPE = click.Choice(["float32", "float16", "bfloat16"])
FAMILY = ChoiceOf("lm_stage.text.prompting:FAMILIES")


def say(text: str) -> None:
    """Print to stderr: stdout is for results that other programs read."""
    click.echo(text, err=True)


def left_to_others(output: str, units: int) -> Interrupted:
    """Return the error of a job that is not complete because other jobs are working on some of its units."""
    return Interrupted(f"{output}: other jobs are still working on {units} units; run the same command again later")


def option_group(*options: Decorator[Any]) -> Decorator[Any]:
    """One decorator that adds several options, in the order given."""

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


vision_tokenizer_option = click.option(
    "--vision-tokenizer", metavar="DIR", show_default="embedded emu3-tiny", help="Directory of the vision tokenizer."
)
model_option = click.option(
    "--model", metavar="DIR", show_default="embedded emu3-tiny", help="Directory of the language model."
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "ascend"]),
    help="Device; auto uses an NPU if there is one.",
)
kernels_option = click.option(
    "--kernels",
    type=click.Choice(["auto", "plain"]),
    help="Kernels; auto uses those of the device, plain those of the CPU on any device.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="Model implementation; mindone is an independent one that needs an NPU.",
)
seed_option = click.option("--seed", type=int, help="Seed of all random numbers.")
unit_rows_option = click.option(
    "--unit-rows", type=int, help="Rows per unit of work; the rows of a unit are committed together."
)
batch_pixels_option = click.option(
    "--batch-pixels", type=int, help="Maximum number of pixels per batch; a batch holds at least one image."
)
numerics_option = click.option(
    "--allow-numerics-change",
    is_flag=True,
    help="Allow resuming on another device, dtype or MindSpore version, or with other kernels.",
)
save_dtype_option = click.option(
    "--save-dtype", type=click.Choice(["float32", "float16"]), help="Data type of the weights that are written."
)
video_template_option = click.option(
    "--video-template",
    type=click.Choice(["univla", "rows"]),
    help="Layout of a video in a sequence: frames as in UniVLA, or rows as in images. Emu3 never published its own.",
)

seq_length_option = click.option("--seq-length", type=int, help="Tokens per row, into which samples are packed.")
loss_options = option_group(
    click.option(
        "--loss",
        type=click.Choice(["after_prompt", "visual", "text"]),
        help="Tokens that the loss covers: all after the prompt, visual ones only, or text only.",
    ),
    click.option("--visual-weight", type=float, help="Weight of a visual token in the loss."),
    click.option(
        "--caption-dropout", type=float, help="Fraction of captions that are dropped, for classifier-free guidance."
    ),
)
MIXTURE_HELP = """A dataset is PATH[,task=image|video|understand|text|document][,weight=NUMBER][,images=DATASET]:
caption to image (the default) or to video, image or video to caption or answer, or text alone (also a .jsonl file of
{text} or {question, answer}). FILE.jsonl,task=document,images=DATASET has prompts and answers that mix text and images:
{text, images, answer, answer_images, task}."""


def explains_mixtures(command: Callable[..., None]) -> Callable[..., None]:
    """Append the form of the datasets of a mixture to the help of a command."""
    command.__doc__ = f"{inspect.getdoc(command)}\n\n{MIXTURE_HELP}"
    return command


skip_damaged_option = click.option(
    "--skip-damaged", is_flag=True, help="Skip damaged parts and rows, and list them, instead of stopping."
)

vision_tokenizer_options = option_group(
    vision_tokenizer_option,
    device_option,
    click.option("--dtype", type=DTYPE, show_default="float32", help="Data type of the computation."),
    kernels_option,
    backend_option,
)

prompting_option = click.option(
    "--prompting",
    type=ChoiceOf("lm_stage.text.prompting:CHOICES"),
    help="Templates and published settings: those of the model (auto), of Emu3 without (plain) or with its suffix and"
    " negative prompt (emu3), or of Emu3.5 (emu35).",
)

language_model_options = option_group(
    model_option,
    click.option(
        "--layout", metavar="FILE.json", help="Token ids by name, for a checkpoint that does not include them."
    ),
    prompting_option,
    click.option("--temperature", type=float, help="Sampling temperature; logits are divided by it."),
    click.option(
        "--top-k",
        type=int,
        show_default="that of --prompting",
        help="Sample from the k most likely tokens; 0 samples from all.",
    ),
    click.option(
        "--top-p",
        type=float,
        show_default="that of --prompting",
        help="Sample from the smallest set of tokens with at least this total probability.",
    ),
    seed_option,
    click.option("--batch-size", type=int, help="Number of sequences generated at the same time."),
    device_option,
    click.option(
        "--dtype",
        type=DTYPE,
        show_default="bfloat16 on Ascend, float32 on CPU",
        help="Data type of the computation.",
    ),
    kernels_option,
    backend_option,
)

engine_options = option_group(
    click.option(
        "--engine",
        type=click.Choice(["here", "local", "ray"]),
        show_default="local if --workers is given, else here",
        help="Where the work runs: in this process, in one process per device, or in actors of a Ray cluster.",
    ),
    click.option("--workers", type=int, show_default="1", help="Number of worker processes or actors, one per device."),
    click.option(
        "--worker-timeout",
        "worker_timeout_s",
        type=float,
        metavar="SECONDS",
        show_default="10 times the longest pause so far, at least 600; 3600 for the first unit of each size",
        help="Restart a worker process that has reported no progress for this long.",
    ),
    click.option(
        "--ray-address", metavar="ADDRESS", show_default="$RAY_ADDRESS", help="Address of a running Ray cluster."
    ),
    click.option(
        "--rank",
        type=int,
        show_default="$RANK_ID or the Slurm array task",
        help="Index of this command, from 0, among the --world-size cooperating commands.",
    ),
    click.option(
        "--world-size",
        type=int,
        show_default="$RANK_SIZE or the size of the Slurm array",
        help="Number of cooperating commands, on one or several machines, that share the work.",
    ),
)


def choose_engine(parameters: Parameters) -> Parameters:
    """`--workers` without `--engine` means `--engine local`."""
    if parameters["workers"] is not None and parameters["engine"] is None:
        return {**parameters, "engine": "local"}
    return parameters


source_options = option_group(
    click.option(
        "--image-root", metavar="DIR", help="Folder of the relative paths in a list, if not that of the list."
    ),
    click.option("--key", metavar="NAME", help="Field of a list, or column of a table, with the key of each row."),
    click.option(
        "--resize",
        "rule",
        type=ChoiceOf("vq_stage.media.resizing:RULES"),
        help="Resize rule: as the Emu3 image processor does, to a fixed area, as Emu3.5 does, or not at all.",
    ),
    click.option(
        "--area",
        type=int,
        show_default="720² for area, 1024² for emu3.5",
        help="Target number of pixels per image, with --resize area or emu3.5.",
    ),
    click.option(
        "--round-to",
        type=int,
        show_default="the pixels per code, 8 for Emu3",
        help="Round both sides to multiples of this many pixels; 64 keeps the number of sizes small.",
    ),
    click.option(
        "--clip-frames",
        "frames",
        type=int,
        help="Frames per video clip, a multiple of the frames per code, 4 for Emu3.",
    ),
    click.option("--fps", type=float, show_default="8", help="Frames per second to sample from videos."),
    click.option("--stride", type=int, help="Take every Nth frame of videos, in place of --fps."),
    click.option("--start-s", type=float, help="Seconds to skip at the start of videos."),
    click.option("--duration-s", type=float, show_default="all", help="Seconds of videos to use."),
    unit_rows_option,
    click.option("--reader-threads", type=int, help="Threads that read and resize ahead of the device."),
    click.option(
        "--read-timeout",
        "read_timeout_s",
        type=float,
        metavar="SECONDS",
        help="Quarantine an input that is not read within this time.",
    ),
    click.option(
        "--duplicates",
        type=click.Choice(["keep", "once"]),
        help="Whether to keep all files with equal content, or to encode them only once.",
    ),
    click.option("--max-refused-in-a-row", type=int, help="Stop after this many consecutive unusable inputs."),
)
