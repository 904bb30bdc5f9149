"""Commands of the language stage. Heavy imports wait until a command runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pipelines.commands.build import ChoiceOf, Parameters, options_command
from pipelines.commands.options import (
    DTYPE,
    choose_engine,
    device_option,
    engine_options,
    explains_mixtures,
    kernels_option,
    language_model_options,
    left_to_others,
    loss_options,
    model_option,
    numerics_option,
    say,
    seed_option,
    seq_length_option,
    skip_damaged_option,
    unit_rows_option,
    video_template_option,
)
from shared.errors import NothingDoneError

if TYPE_CHECKING:
    from lm_stage.generate.options import GenerateOptions
    from lm_stage.training.options import SftOptions
    from lm_stage.understand.options import UnderstandOptions


@options_command("lm_stage.training.options:SftOptions")
@click.argument("datasets", nargs=-1, required=True)
@click.argument("run")
@model_option
@click.option(
    "--held-out", multiple=True, metavar="DATASET", help="Dataset to evaluate but not train on; may be repeated."
)
@click.option("--steps", type=int, help="Number of optimizer steps.")
@seq_length_option
@click.option("--micro-batch-size", type=int, help="Rows per forward and backward pass.")
@click.option("--gradient-accumulation-steps", type=int, help="Micro-batches per optimizer step.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option(
    "--warmup", type=int, show_default="50", help="Steps of linear learning-rate warm-up; a cosine decay follows."
)
@click.option("--min-lr-ratio", type=float, help="Final learning rate as a fraction of the peak.")
@click.option("--weight-decay", type=float, help="Weight decay of matrices; norms do not decay.")
@click.option("--clip-norm", type=float, help="Maximum norm of the gradient; 0 disables clipping.")
@video_template_option
@loss_options
@click.option(
    "--freeze", multiple=True, metavar="NAME", help="Freeze parameters whose name contains NAME; may be repeated."
)
@click.option("--lora-rank", type=int, help="Rank of LoRA adapters; 0 trains the full weights.")
@click.option(
    "--lora-alpha", type=float, show_default="16", help="LoRA scale: adapter outputs are multiplied by alpha / rank."
)
@click.option(
    "--lora-targets",
    multiple=True,
    metavar="NAME",
    show_default="the four attention projections",
    help="Matrices that LoRA adapters are added to; may be repeated.",
)
@click.option("--zero", is_flag=True, help="Shard gradients, moments and float32 weights over the processes (ZeRO-2).")
@click.option("--recompute", is_flag=True, help="Recompute activations in the backward pass: less memory, more time.")
@click.option("--sample-prompts", metavar="PROMPTS", help="Generate pictures for these prompts at every checkpoint.")
@click.option(
    "--vision-tokenizer",
    metavar="DIR",
    show_default="embedded emu3-tiny",
    help="Directory of the vision tokenizer that decodes the pictures of --sample-prompts.",
)
@seed_option
@skip_damaged_option
@click.option("--max-bad-steps", type=int, help="Stop after this many consecutive steps without a finite loss.")
@click.option("--save-every", type=int, help="Steps between checkpoints.")
@click.option("--keep", type=int, help="Number of most recent checkpoints to keep.")
@click.option("--evaluate-every", type=int, help="Steps between evaluations of the held-out loss.")
@click.option(
    "--save-dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Data type of the weights in RUN/model.",
)
@device_option
@click.option(
    "--loss-scale",
    type=float,
    show_default="adapted for float16, else 1",
    help="Factor on the loss that keeps small gradients representable.",
)
@click.option(
    "--dtype",
    type=DTYPE,
    show_default="bfloat16 on Ascend, float32 on CPU",
    help="Data type of the computation; the trained weights stay in float32.",
)
@kernels_option
@click.option(
    "--deterministic/--no-deterministic",
    help="Whether equal runs on Ascend give equal bytes, which takes time. Exact resuming needs it.",
)
@explains_mixtures
def sft(options: SftOptions, sample_prompts: str | None, vision_tokenizer: str | None) -> None:
    """Fine-tune a language model on the shards of DATASETS; RUN/model is the result.

    The same command resumes an interrupted run.
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
            f"skipped: {result.too_long} samples too long for a row, {result.damaged} damaged (RUN/left_out.jsonl);"
            f" {result.bad_steps} steps without a finite loss"
        )


@options_command("lm_stage.generate.options:GenerateOptions", adjust=choose_engine)
@click.argument("prompts")
@click.argument("dataset")
@language_model_options
@engine_options
@click.option("--greedy", is_flag=True, help="Always take the most likely token.")
@click.option("--ratio", show_default="1:1", help="Aspect ratio of images, width:height.")
@click.option("--area", type=int, show_default="that of the model, else as published", help="Pixels per image.")
@click.option("--height", type=int, help="Height in pixels; with --width, in place of --ratio and --area.")
@click.option("--width", type=int, help="Width in pixels; with --height.")
@click.option("--frames", type=int, help="Frames of codes per video, 4 video frames each for Emu3; 0 generates images.")
@video_template_option
@click.option(
    "--task",
    type=ChoiceOf("lm_stage.text.prompting:TASKS"),
    help="Single images or videos, or a task of Emu3.5 whose answers mix text and images.",
)
@click.option(
    "--max-new-tokens",
    type=int,
    show_default="as many as the model has positions for",
    help="Maximum length of an answer with --task, in tokens.",
)
@click.option("--text-temperature", type=float, help="Sampling temperature of text in answers.")
@click.option(
    "--text-top-k",
    type=int,
    show_default="that of --prompting",
    help="Sample text in answers from the k most likely tokens.",
)
@click.option(
    "--text-top-p",
    type=float,
    show_default="that of --prompting",
    help="Sample text in answers from the smallest set of tokens with at least this total probability.",
)
@click.option("--suffix", show_default="that of --prompting", help="Text appended to every prompt.")
@click.option("--negative-prompt", show_default="that of --prompting", help="Text that guidance steers away from.")
@click.option(
    "--guidance-scale",
    type=float,
    show_default="that of --prompting",
    help="Strength of classifier-free guidance; 1 disables it.",
)
@click.option("--samples", type=int, help="Number of images per prompt.")
@click.option("--images", metavar="DATASET", help="Codes dataset with the images that prompts refer to.")
@click.option(
    "--vision-tokenizer",
    metavar="DIR",
    help="Directory of the vision tokenizer whose codes the model generates, if the checkpoint does not record it.",
)
@unit_rows_option
@click.option("--journal-rows", type=int, help="Rows of codes per entry of the journal.")
@click.option(
    "--window",
    type=int,
    help="Tokens of each sequence per forward pass. More than 1 gives the same codes in fewer, larger passes.",
)
@click.option(
    "--resume",
    type=click.Choice(["replay", "prefill"]),
    help="How a partial image is resumed: replay gives the codes of an uninterrupted run, prefill is faster.",
)
@numerics_option
def generate(options: GenerateOptions, vision_tokenizer: str | None) -> None:
    """Generate images or videos for PROMPTS into the token shards of DATASET; `emu3 decode` turns them into pictures.
    With --task, generate answers that mix text and images; `emu3 decode` writes a page for each.

    The same command resumes an interrupted run, even within an image. PROMPTS is a .txt file (one prompt per line), a
    .json or .jsonl file of {prompt, key, ratio, height, width, negative_prompt, seed, samples, images, frames, video,
    fps}, or a codes dataset whose captions are the prompts. `video` is the key of a clip in --images to continue.
    """
    from lm_stage.generate.job import generate as run
    from pipelines.report.text import counts_text
    from vq_stage.model.codec import read_codec

    codec = read_codec(vision_tokenizer) if vision_tokenizer else None
    result, dataset = run(replace(options, codec=codec)), options.dataset
    prompts, refused = result.prompts, result.quarantined
    for reason, first in prompts.first_refusals.items():
        say(f"{reason}: {first}")
    if prompts.unlisted:
        say(f"{prompts.unlisted} prompts of {dataset} are not listed in {options.prompts} any more; they stay")
    reasons = f": {counts_text(prompts.refused)}" if refused else ""
    made = f"{result.rows} {'answers' if options.makes_answers else 'images'} generated"
    say(f"{dataset}: {made}, {refused} refused in {result.elapsed_s:.1f} s{reasons}")
    if result.units_missing:
        raise left_to_others(dataset, result.units_missing)
    if refused == prompts.listed:
        raise NothingDoneError(f"{dataset}: every prompt was refused; {dataset}/quarantine has the details{reasons}")


def _adjust_understanding(parameters: Parameters) -> Parameters:
    """`-` as DATASET means that there is no dataset."""
    dataset = None if parameters["dataset"] == "-" else parameters["dataset"]
    return {**choose_engine(parameters), "dataset": dataset}


@options_command("lm_stage.understand.options:UnderstandOptions", adjust=_adjust_understanding)
@click.argument("dataset")
@click.argument("answers")
@language_model_options
@engine_options
@video_template_option
@click.option("--greedy/--sample", help="Always take the most likely token, or sample.")
@click.option("--question", show_default="Please describe the image.", help="Question to answer about every image.")
@click.option(
    "--questions",
    metavar="FILE.jsonl",
    help="File of {question, key, images} lines in place of --question; `images` may be empty.",
)
@click.option(
    "--template",
    type=ChoiceOf("lm_stage.text.prompting:QUESTION_TEMPLATES"),
    help="Prompt format: that of the chat model, or that of the first training stage.",
)
@click.option("--max-new-tokens", type=int, help="Maximum length of an answer in tokens.")
def understand(options: UnderstandOptions) -> None:
    """Answer questions about the images of DATASET into ANSWERS, a file of JSON lines.

    Without a question, every image is captioned. Questions without images need no dataset: give - as DATASET.
    The same command resumes an interrupted run.
    """
    from lm_stage.understand.job import understand as run
    from pipelines.report.text import counts_text

    result = run(options)
    for reason, first in result.first_refusals.items():
        say(f"{reason}: {first}")
    refused = sum(result.refused.values())
    counts = f"{result.answered} answered, {result.resumed} already present, {refused} refused"
    reasons = f": {counts_text(result.refused)}" if refused else ""
    say(f"{options.answers}: {counts}{reasons}")
    if refused and not result.answered and not result.resumed:
        raise NothingDoneError(f"{options.answers}: every question was refused{reasons}")
