"""What commands share: printing, options of models, and the step from options given to an options object."""

from __future__ import annotations

from typing import Any

import click


def say(text: str) -> None:
    """Prints to stderr: stdout is for results that other programs read."""
    click.echo(text, err=True)


def model_options(command: Any) -> Any:
    """Options of every command that loads the vision tokenizer."""
    for option in reversed(
        [
            click.option(
                "--vision-tokenizer", metavar="DIR", help="Tokenizer directory.  [default: embedded emu3-tiny]"
            ),
            click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto"),
            click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32"),
            click.option("--backend", type=click.Choice(["native", "mindone"]), default="native"),
        ]
    ):
        command = option(command)
    return command


def language_options(command: Any) -> Any:
    """Options of every command that runs the language model and draws from it."""
    for option in reversed(
        [
            click.option("--model", metavar="DIR", help="Language model directory.  [default: embedded emu3-tiny]"),
            click.option("--layout", metavar="FILE.json", help="Token ids by name, if the checkpoint has none."),
            click.option("--temperature", type=float, default=1.0),
            click.option("--top-k", type=int, default=2048, help="Draw from the best so many; 0: from all."),
            click.option("--top-p", type=float, default=1.0, help="Draw from the smallest set of this probability."),
            click.option("--seed", type=int, default=0),
            click.option("--batch-size", type=int, default=8, help="Sequences generated at the same time."),
            click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto"),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "float16", "bfloat16"]),
                help="[default: bfloat16 on Ascend, float32 on CPU]",
            ),
            click.option("--backend", type=click.Choice(["native", "mindone"]), default="native"),
        ]
    ):
        command = option(command)
    return command


video_template_option = click.option(
    "--video-template",
    type=click.Choice(["univla", "rows"]),
    default="univla",
    help="Form of a video in a sequence: frames as in UniVLA, or rows as in images. Emu3's own was never published.",
)


def engine_options(command: Any) -> Any:
    """Options of every job over units: which processes do it."""
    for option in reversed(
        [
            click.option(
                "--engine",
                type=click.Choice(["here", "local", "ray"]),
                help="This process, one process a device, or actors of a Ray cluster.  [default: local if --workers]",
            ),
            click.option("--workers", type=int, help="Processes, one a device, of --engine local or ray."),
            click.option("--ray-address", metavar="ADDRESS", help="Of a running Ray cluster.  [default: $RAY_ADDRESS]"),
            click.option("--rank", type=int, help="This command's number of --world-size equal ones."),
            click.option(
                "--world-size",
                type=int,
                help="Equal commands on other machines.  [default: RANK_ID of RANK_SIZE, or Slurm's]",
            ),
        ]
    ):
        command = option(command)
    return command


def with_engine(options: dict[str, Any]) -> dict[str, Any]:
    """The options given, with those of the engine gathered into one object."""
    from shared.jobs.engines import EngineOptions

    names = ("engine", "workers", "ray_address", "rank", "world_size")
    chosen = given({name: options[name] for name in names})
    if "workers" in chosen:
        chosen.setdefault("engine", "local")
    others = {name: value for name, value in options.items() if name not in names}
    return {**given(others), "engine": EngineOptions(**chosen)}


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Without the options that were left at None, so that the options object supplies its default."""
    return {name: value for name, value in options.items() if value is not None}
