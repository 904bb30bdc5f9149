"""Commands of the language stage. Heavy imports wait until a command runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pipelines.commands.build import adjust_generation, adjust_understanding, options_command
from pipelines.commands.options import (
    DTYPE,
    device_option,
    engine_options,
    language_options,
    model_option,
    say,
    video_template_option,
)

if TYPE_CHECKING:
    from lm_stage.generate.options import GenerateOptions
    from lm_stage.model.new_model import NewModelOptions
    from lm_stage.training.options import SftOptions
    from lm_stage.understand.options import UnderstandOptions


@options_command("lm_stage.model.new_model:NewModelOptions", "init-lm")
@click.argument("dataset")
@click.argument("out")
@click.option("--text-ids", type=int, help="Text tokens at most, learned from the captions.")
@click.option("--hidden-size", type=int)
@click.option("--intermediate-size", type=int)
@click.option("--layers", type=int)
@click.option("--heads", type=int)
@click.option("--kv-heads", type=int)
@click.option("--positions", type=int)
@click.option("--tied/--untied", help="Whether the output head is the embedding.")
@click.option("--seed", type=int)
def init_lm(options: NewModelOptions) -> None:
    """Make a small language model with random weights in OUT, for the codes and captions of DATASET."""
    from lm_stage.model.new_model import create_model

    say(f"language model written to {create_model(options)}")


@options_command("lm_stage.training.options:SftOptions")
@click.argument("datasets", nargs=-1, required=True)
@click.argument("run")
@model_option
@click.option("--held-out", multiple=True, metavar="DATASET", help="Never trained on; its loss is watched.")
@click.option("--steps", type=int)
@click.option("--seq-length", type=int, help="Tokens of a row, into which samples are packed.")
@click.option("--micro-batch-size", type=int, help="Rows of one forward and backward pass.")
@click.option("--gradient-accumulation-steps", type=int, help="Micro-batches of one optimizer step.")
@click.option("--learning-rate", type=float)
@click.option("--warmup", type=int, help="Steps of linear warm-up; a cosine follows.")
@click.option("--min-lr-ratio", type=float, help="Final learning rate over the peak.")
@click.option("--weight-decay", type=float, help="Of matrices; norms do not decay.")
@click.option("--clip-norm", type=float, help="Largest norm of a gradient; 0: any.")
@video_template_option
@click.option("--loss", type=click.Choice(["after_prompt", "visual", "text"]))
@click.option("--visual-weight", type=float, help="Weight of a visual token in the loss.")
@click.option("--caption-dropout", type=float, help="Share of captions left out, for guidance.")
@click.option("--freeze", multiple=True, metavar="NAME", help="Parameters whose name holds NAME do not move.")
@click.option("--lora-rank", type=int, help="Train adapters of this rank only; 0: the weights.")
@click.option("--lora-alpha", type=float, help="Adapters count alpha / rank times.")
@click.option("--lora-targets", multiple=True, metavar="NAME")
@click.option("--zero", is_flag=True, help="Split gradients, moments and float32 weights over the processes (ZeRO-2).")
@click.option("--recompute", is_flag=True, help="Compute each layer again for its gradient: less memory, more time.")
@click.option("--sample-prompts", metavar="PROMPTS", help="Draw pictures for these with every checkpoint.")
@click.option("--vision-tokenizer", metavar="DIR", show_default="embedded emu3-tiny", help="For --sample-prompts.")
@click.option("--seed", type=int)
@click.option("--skip-damaged", is_flag=True, help="Leave damaged parts and rows out and list them; do not stop.")
@click.option("--max-bad-steps", type=int, help="Stop after so many steps in a row without a finite loss.")
@click.option("--save-every", type=int, help="Steps between checkpoints.")
@click.option("--keep", type=int, help="Checkpoints kept.")
@click.option("--evaluate-every", type=int, help="Steps between looks at the held-out loss.")
@click.option("--save-dtype", type=click.Choice(["float32", "float16"]), help="Of RUN/model.")
@device_option
@click.option("--loss-scale", type=float, show_default="as large as works with float16, else 1", help="Of gradients.")
@click.option("--dtype", type=DTYPE, help="Of computing; weights stay float32.")
def sft(options: SftOptions, sample_prompts: str | None, vision_tokenizer: str | None) -> None:
    """Fine-tune a language model on the shards of DATASETS into RUN; the same command resumes.

    A dataset is PATH[,task=image|video|understand|text][,weight=W]: caption to image (default) or to video, image or
    video to caption or answer, text alone (also a .jsonl of {text} or {question, answer}). RUN/model is the result.
    """
    from lm_stage.training.job import sft as run

    on_checkpoint = None
    if sample_prompts:
        from pipelines.training_samples import sample_drawer
        from vq_stage.model.weights import EMBEDDED_TOKENIZER

        on_checkpoint = sample_drawer(options, sample_prompts, vision_tokenizer or str(EMBEDDED_TOKENIZER))
    result = run(options, on_checkpoint)
    held_out = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    say(f"{result.model}: {result.steps} steps, loss {result.loss:.4f}{held_out}")
    if result.too_long or result.damaged or result.bad_steps:
        say(
            f"left out: {result.too_long} samples too long for a row, {result.damaged} damaged (RUN/left_out.jsonl);"
            f" {result.bad_steps} steps without a finite loss"
        )


@options_command("lm_stage.generate.options:GenerateOptions", adjust=adjust_generation)
@click.argument("prompts")
@click.argument("dataset")
@language_options
@engine_options
@click.option("--greedy", is_flag=True, help="Always the best token.")
@click.option("--ratio", help="Width:height.")
@click.option("--area", type=int, show_default="the model's, else 720²", help="Pixels of an image.")
@click.option("--height", type=int, help="Pixels; with --width instead of ratio and area.")
@click.option("--width", type=int)
@click.option("--frames", type=int, help="Frames of codes (4 of pixels each): videos; 0: images.")
@video_template_option
@click.option("--prompting", type=click.Choice(["plain", "emu3"]), default="plain", help="emu3: as published.")
@click.option("--suffix", help="Text after every prompt.")
@click.option("--negative-prompt", help="Text to guide away from.")
@click.option("--guidance-scale", type=float, help="1: no guidance.")
@click.option("--samples", type=int, help="Images a prompt.")
@click.option("--images", metavar="DATASET", help="Codes dataset of the images that prompts hold.")
@click.option("--vision-tokenizer", metavar="DIR", help="Its codes are written, if the checkpoint does not say.")
@click.option("--unit-rows", type=int, help="Images a unit of work, committed together.")
@click.option("--journal-rows", type=int, help="Rows of codes between two notes in the journal.")
@click.option(
    "--resume",
    type=click.Choice(["replay", "prefill"]),
    help="How a half-written image goes on: replay gives the codes of an unbroken run, prefill is faster.",
)
@click.option("--allow-numerics-change", is_flag=True, help="Resume on another device, dtype or MindSpore.")
def generate(options: GenerateOptions, vision_tokenizer: str | None) -> None:
    """Generate images or videos for PROMPTS into token shards in DATASET; the same command resumes, inside one too.

    PROMPTS is a .txt (a prompt a line), .json or .jsonl of {prompt, key, ratio, height, width, negative_prompt, seed,
    samples, images, frames, video, fps}, or a codes dataset whose captions are the prompts. `video` is the key of a
    clip in --images to go on with. `emu3 decode` makes the pictures.
    """
    from lm_stage.generate.job import generate as run

    result = run(replace(options, codec=_codec(vision_tokenizer)))
    say(f"{options.dataset}: {result.rows} images generated, {result.quarantined} refused in {result.elapsed_s:.1f} s")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


@options_command("lm_stage.understand.options:UnderstandOptions", adjust=adjust_understanding)
@click.argument("dataset")
@click.argument("answers")
@language_options
@engine_options
@video_template_option
@click.option("--greedy/--sample", help="Always the best token, or draw.")
@click.option("--question", show_default="Please describe the image.", help="Asked about every image.")
@click.option("--questions", metavar="FILE.jsonl", help="{question, key, images} a line instead; images may be none.")
@click.option("--template", type=click.Choice(["chat", "stage1"]))
@click.option("--max-new-tokens", type=int)
def understand(options: UnderstandOptions) -> None:
    """Answer questions about the images of DATASET into ANSWERS (JSON lines); the same command resumes.

    Captions every image unless asked something else. Questions without images need no dataset: give `-`.
    """
    from lm_stage.understand.job import understand as run

    result = run(options)
    say(f"{options.answers}: {result.answered} answered, {result.resumed} were there, {result.refused} refused")


def _codec(vision_tokenizer: str | None) -> str | None:
    from vq_stage.model.weights import codec_fingerprint

    return codec_fingerprint(vision_tokenizer) if vision_tokenizer else None
