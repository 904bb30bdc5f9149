"""Commands that create language models or convert them. Heavy imports wait until a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipelines.commands.build import options_command
from pipelines.commands.options import FAMILY, say, seed_option

if TYPE_CHECKING:
    from lm_stage.model.options import NewModelOptions


@options_command("lm_stage.model.options:NewModelOptions", "init-lm")
@click.argument("dataset")
@click.argument("out")
@click.option("--text-ids", type=int, help="Maximum number of text tokens, which are learned from the captions.")
@click.option("--hidden-size", type=int, help="Width of the residual stream.")
@click.option("--intermediate-size", type=int, help="Width of the feed-forward layers.")
@click.option("--layers", type=int, help="Number of decoder layers.")
@click.option("--heads", type=int, help="Number of attention heads.")
@click.option("--kv-heads", type=int, help="Number of key and value heads.")
@click.option("--head-dim", type=int, help="Size of a head, if it is not --hidden-size divided by --heads.")
@click.option("--qk-norm", is_flag=True, help="Normalize each head of queries and keys, as Emu3.5 does.")
@click.option("--positions", type=int, help="Maximum sequence length in tokens.")
@click.option(
    "--prompting",
    type=FAMILY,
    help="Family whose sequences the model is for; emu35 adds the control tokens of Emu3.5 to the vocabulary.",
)
@click.option("--tied/--untied", help="Whether the output head shares the weights of the embedding.")
@seed_option
def init_lm(options: NewModelOptions) -> None:
    """Create a small language model with random weights in OUT, for the codes and captions of DATASET."""
    from lm_stage.model.new_model import create_model

    say(f"language model written to {create_model(options)}")


@click.command("convert-lm")
@click.argument("model")
@click.argument("out")
@click.option(
    "--weights",
    metavar="DIR",
    help="Folder of MindFormers' complete weights, to convert back; config and text tokenizer are those of MODEL.",
)
def convert_lm(model: str, out: str, weights: str | None) -> None:
    """Write the weights of MODEL to OUT under MindFormers' names, or a model from MindFormers' weights.

    MindFormers has tensor, pipeline and sequence parallelism for training on many machines.
    """
    from lm_stage.model.mindformers import from_mindformers, to_mindformers

    written = from_mindformers(weights, model, out) if weights else to_mindformers(model, out)
    say(f"{'model' if weights else 'weights for MindFormers'} written to {written}")
