"""Commands of the language stage. Heavy imports wait until a command runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands.options import engine_options, given, language_options, say, video_template_option, with_engine

if TYPE_CHECKING:
    from lm_stage.generate.options import GenerateOptions
    from lm_stage.training.options import SftOptions
    from lm_stage.understand.job import UnderstandOptions


@click.command("init-lm")
@click.argument("dataset")
@click.argument("out")
@click.option("--text-ids", type=int, default=2000, help="Text tokens at most, learned from the captions.")
@click.option("--hidden-size", type=int, default=256)
@click.option("--intermediate-size", type=int, default=768)
@click.option("--layers", type=int, default=6)
@click.option("--heads", type=int, default=8)
@click.option("--kv-heads", type=int, default=4)
@click.option("--positions", type=int, default=1024)
@click.option("--tied/--untied", default=True, help="Whether the output head is the embedding.")
@click.option("--seed", type=int, default=0)
def init_lm(**options: Any) -> None:
    """Make a small language model with random weights in OUT, for the codes and captions of DATASET."""
    from lm_stage.model.new_model import InitOptions, initialize

    say(f"language model written to {initialize(InitOptions(**options))}")


@click.command()
@click.argument("datasets", nargs=-1, required=True)
@click.argument("run")
@click.option("--model", metavar="DIR", help="Language model to start from.  [default: embedded emu3-tiny]")
@click.option("--held-out", multiple=True, metavar="DATASET", help="Never trained on; its loss is watched.")
@click.option("--steps", type=int, default=1000)
@click.option("--seq-length", type=int, default=1024, help="Tokens of a row, into which samples are packed.")
@click.option("--micro-batch-size", type=int, default=4, help="Rows of one forward and backward pass.")
@click.option("--gradient-accumulation-steps", type=int, default=1, help="Micro-batches of one optimizer step.")
@click.option("--learning-rate", type=float, default=1e-4)
@click.option("--warmup", type=int, default=50, help="Steps of linear warm-up; a cosine follows.")
@click.option("--min-lr-ratio", type=float, default=0.1, help="Final learning rate over the peak.")
@click.option("--weight-decay", type=float, default=0.1, help="Of matrices; norms do not decay.")
@click.option("--clip-norm", type=float, default=1.0, help="Largest norm of a gradient; 0: any.")
@video_template_option
@click.option("--loss", type=click.Choice(["after_prompt", "visual", "text"]), default="after_prompt")
@click.option("--visual-weight", type=float, default=1.0, help="Weight of a visual token in the loss.")
@click.option("--caption-dropout", type=float, default=0.05, help="Share of captions left out, for guidance.")
@click.option("--freeze", multiple=True, metavar="NAME", help="Parameters whose name holds NAME do not move.")
@click.option("--lora-rank", type=int, default=0, help="Train adapters of this rank only; 0: the weights.")
@click.option("--lora-alpha", type=float, default=16.0, help="Adapters count alpha / rank times.")
@click.option("--lora-targets", multiple=True, default=["q_proj", "k_proj", "v_proj", "o_proj"], metavar="NAME")
@click.option("--zero", is_flag=True, help="Split gradients, moments and float32 weights over the processes (ZeRO-2).")
@click.option("--recompute", is_flag=True, help="Compute each layer again for its gradient: less memory, more time.")
@click.option("--sample-prompts", metavar="PROMPTS", help="Draw pictures for these with every checkpoint.")
@click.option("--vision-tokenizer", metavar="DIR", help="For --sample-prompts.  [default: embedded emu3-tiny]")
@click.option("--seed", type=int, default=0)
@click.option("--skip-damaged", is_flag=True, help="Leave damaged parts and rows out and list them; do not stop.")
@click.option("--max-bad-steps", type=int, default=5, help="Stop after so many steps in a row without a finite loss.")
@click.option("--save-every", type=int, default=200, help="Steps between checkpoints.")
@click.option("--keep", type=int, default=2, help="Checkpoints kept.")
@click.option("--evaluate-every", type=int, default=200, help="Steps between looks at the held-out loss.")
@click.option("--save-dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of RUN/model.")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto")
@click.option("--loss-scale", type=float, help="Of gradients.  [default: with float16 as large as will do, else 1]")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Of computing; weights stay float32."
)
def sft(sample_prompts: str | None, vision_tokenizer: str | None, **others: Any) -> None:
    """Fine-tune a language model on the shards of DATASETS into RUN; the same command resumes.

    A dataset is PATH[,task=image|video|understand|text][,weight=W]: caption to image (default) or to video, image or
    video to caption or answer, text alone (also a .jsonl of {text} or {question, answer}). RUN/model is the result.
    """
    from lm_stage.training.job import sft as run

    options, on_checkpoint = sft_settings(**others), None
    if sample_prompts:
        from pipelines.commands.training_samples import sampler
        from vq_stage.model.weights import EMBEDDED_TOKENIZER

        on_checkpoint = sampler(options, sample_prompts, vision_tokenizer or str(EMBEDDED_TOKENIZER))
    result = run(options, on_checkpoint)
    held_out = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    say(f"{result.model}: {result.steps} steps, loss {result.loss:.4f}{held_out}")
    if result.too_long or result.damaged or result.bad_steps:
        say(
            f"left out: {result.too_long} samples too long for a row, {result.damaged} damaged (RUN/left_out.jsonl);"
            f" {result.bad_steps} steps without a finite loss"
        )


def sft_settings(sample_prompts: str | None = None, vision_tokenizer: str | None = None, **others: Any) -> SftOptions:
    """Without those of sample pictures. Raises UsageError, as those below do, for options that cannot work."""
    from lm_stage.training.options import SftOptions

    return SftOptions(**given(others))


@click.command()
@click.argument("prompts")
@click.argument("dataset")
@language_options
@engine_options
@click.option("--greedy", is_flag=True, help="Always the best token.")
@click.option("--ratio", default="1:1", help="Width:height.")
@click.option("--area", type=int, help="Pixels of an image.  [default: the model's, else 720²]")
@click.option("--height", type=int, help="Pixels; with --width instead of ratio and area.")
@click.option("--width", type=int)
@click.option("--frames", type=int, default=0, help="Frames of codes (4 of pixels each): videos; 0: images.")
@video_template_option
@click.option("--prompting", type=click.Choice(["plain", "emu3"]), default="plain", help="emu3: as published.")
@click.option("--suffix", help="Text after every prompt.")
@click.option("--negative-prompt", help="Text to guide away from.")
@click.option("--guidance-scale", type=float, default=3.0, help="1: no guidance.")
@click.option("--samples", type=int, default=1, help="Images a prompt.")
@click.option("--images", metavar="DATASET", help="Codes dataset of the images that prompts hold.")
@click.option("--vision-tokenizer", metavar="DIR", help="Its codes are written, if the checkpoint does not say.")
@click.option("--unit-rows", type=int, default=64, help="Images a unit of work, committed together.")
@click.option("--journal-rows", type=int, default=4, help="Rows of codes between two notes in the journal.")
@click.option(
    "--resume",
    type=click.Choice(["replay", "prefill"]),
    default="replay",
    help="How a half-written image goes on: replay gives the codes of an unbroken run, prefill is faster.",
)
@click.option("--allow-numerics-change", is_flag=True, help="Resume on another device, dtype or MindSpore.")
def generate(dataset: str, vision_tokenizer: str | None, **others: Any) -> None:
    """Generate images or videos for PROMPTS into token shards in DATASET; the same command resumes, inside one too.

    PROMPTS is a .txt (a prompt a line), .json or .jsonl of {prompt, key, ratio, height, width, negative_prompt, seed,
    samples, images, frames, video, fps}, or a codes dataset whose captions are the prompts. `video` is the key of a
    clip in --images to go on with. `emu3 decode` makes the pictures.
    """
    from lm_stage.generate.job import generate as run

    options = generate_settings(dataset=dataset, **others)
    result = run(replace(options, codec=_codec(vision_tokenizer)))
    say(f"{dataset}: {result.rows} images generated, {result.quarantined} refused in {result.elapsed_s:.1f} s")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


def generate_settings(prompting: str, vision_tokenizer: str | None = None, **others: Any) -> GenerateOptions:
    """Without the fingerprint of the vision tokenizer."""
    from lm_stage.generate.options import GenerateOptions
    from lm_stage.text.templates import EMU3_NEGATIVE_PROMPT, EMU3_SUFFIX

    if prompting == "emu3":
        published = {"suffix": EMU3_SUFFIX, "negative_prompt": EMU3_NEGATIVE_PROMPT}
        others = {**others, **{name: text for name, text in published.items() if others[name] is None}}
    return GenerateOptions(**with_engine(_sampling(others)))


@click.command()
@click.argument("dataset")
@click.argument("answers")
@language_options
@engine_options
@video_template_option
@click.option("--greedy/--sample", default=True, help="Always the best token, or draw.  [default: greedy]")
@click.option("--question", help="Asked about every image.  [default: Please describe the image.]")
@click.option("--questions", metavar="FILE.jsonl", help="{question, key, images} a line instead; images may be none.")
@click.option("--template", type=click.Choice(["chat", "stage1"]), default="chat")
@click.option("--max-new-tokens", type=int, default=1024)
def understand(answers: str, **others: Any) -> None:
    """Answer questions about the images of DATASET into ANSWERS (JSON lines); the same command resumes.

    Captions every image unless asked something else. Questions without images need no dataset: give `-`.
    """
    from lm_stage.understand.job import understand as run

    result = run(understand_settings(answers=answers, **others))
    say(f"{answers}: {result.answered} answered, {result.kept} were there, {result.refused} refused")


def understand_settings(dataset: str, **others: Any) -> UnderstandOptions:
    from lm_stage.understand.job import UnderstandOptions

    return UnderstandOptions(None if dataset == "-" else dataset, **with_engine(_sampling(others)))


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those of sampling gathered into one object."""
    from lm_stage.inference.sampling import SamplingOptions

    names = ("temperature", "top_k", "top_p", "greedy")
    others = {name: value for name, value in options.items() if name not in names}
    return {**others, "sampling": SamplingOptions(**{name: options[name] for name in names})}


def _codec(vision_tokenizer: str | None) -> str | None:
    from vq_stage.model.weights import codec_fingerprint

    return codec_fingerprint(vision_tokenizer) if vision_tokenizer else None
