"""Printing, and the options that several commands share. Their defaults are those of the options dataclasses."""

from __future__ import annotations

from typing import Any

import click


def say(text: str) -> None:
    """Prints to stderr: stdout is for results that other programs read."""
    click.echo(text, err=True)


DTYPE = click.Choice(["float32", "float16", "bfloat16"])
vision_tokenizer_option = click.option(
    "--vision-tokenizer", metavar="DIR", show_default="embedded emu3-tiny", help="Tokenizer directory."
)
model_option = click.option(
    "--model", metavar="DIR", show_default="embedded emu3-tiny", help="Language model directory."
)
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]))
backend_option = click.option("--backend", type=click.Choice(["native", "mindone"]))


def model_options(command: Any) -> Any:
    """Options of every command that loads the vision tokenizer."""
    for option in reversed(
        [
            vision_tokenizer_option,
            device_option,
            click.option("--dtype", type=DTYPE, show_default="float32"),
            backend_option,
        ]
    ):
        command = option(command)
    return command


def language_options(command: Any) -> Any:
    """Options of every command that runs the language model and draws from it."""
    for option in reversed(
        [
            model_option,
            click.option("--layout", metavar="FILE.json", help="Token ids by name, if the checkpoint has none."),
            click.option("--temperature", type=float),
            click.option("--top-k", type=int, help="Draw from the best so many; 0: from all."),
            click.option("--top-p", type=float, help="Draw from the smallest set of this probability."),
            click.option("--seed", type=int),
            click.option("--batch-size", type=int, help="Sequences generated at the same time."),
            device_option,
            click.option("--dtype", type=DTYPE, show_default="bfloat16 on Ascend, float32 on CPU"),
            backend_option,
        ]
    ):
        command = option(command)
    return command


video_template_option = click.option(
    "--video-template",
    type=click.Choice(["univla", "rows"]),
    help="Form of a video in a sequence: frames as in UniVLA, or rows as in images. Emu3's own was never published.",
)


def engine_options(command: Any) -> Any:
    """Options of every job over units: which processes do it."""
    for option in reversed(
        [
            click.option(
                "--engine",
                type=click.Choice(["here", "local", "ray"]),
                show_default="local if --workers is given, else here",
                help="This process, one process a device, or actors of a Ray cluster.",
            ),
            click.option(
                "--workers", type=int, show_default="1", help="Processes, one a device, of --engine local or ray."
            ),
            click.option(
                "--ray-address", metavar="ADDRESS", show_default="$RAY_ADDRESS", help="Of a running Ray cluster."
            ),
            click.option("--rank", type=int, help="This command's number of --world-size equal ones."),
            click.option(
                "--world-size",
                type=int,
                show_default="RANK_ID of RANK_SIZE, or Slurm's",
                help="Equal commands on other machines.",
            ),
        ]
    ):
        command = option(command)
    return command
