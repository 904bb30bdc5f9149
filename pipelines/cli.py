"""The `emu3` command: parse, build one options object, call one function, print, set the exit code.

Exit codes: 0 done, 1 failed, 2 bad usage or input, 75 interrupted and resumable.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from shared.errors import RelayError


class RelayGroup(click.Group):
    """Prints our errors as text, without a traceback, and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RelayError as error:
            click.echo(f"emu3 {ctx.invoked_subcommand}: {error}", err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            click.echo(f"emu3 {ctx.invoked_subcommand}: {error}; what was committed stays, run it again", err=True)
            sys.exit(1)


def say(text: str) -> None:
    """Prints to stderr: stdout is for results that other programs read."""
    click.echo(text, err=True)


@click.group(cls=RelayGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="emu3-relay")
def main() -> None:
    """Two stages that meet on disk: pictures to code shards, token sequences to pictures."""


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


@main.command()
@click.argument("source")
@click.argument("dataset")
@model_options
@click.option("--resize", "rule", type=click.Choice(["processor", "area", "none"]), default="processor")
@click.option("--area", type=int, default=720 * 720, help="Pixels to scale to with --resize area.")
@click.option("--round-to", type=int, default=8, help="Sides become multiples of it: 64 gives few sizes to compile.")
@click.option("--unit-rows", type=int, default=256, help="Images a unit of work, committed together.")
@click.option("--batch-pixels", type=int, default=512 * 512, help="Pixels a batch at most (at least one image).")
@click.option("--quality-samples", type=int, default=1, help="Images a unit to decode again for PSNR and SSIM.")
@click.option("--readers", type=int, default=2, help="Threads that read and resize ahead of the device.")
@click.option("--allow-numerics-change", is_flag=True, help="Resume on another device, dtype or MindSpore.")
@click.option("--max-refused-in-a-row", type=int, default=1000, help="Stop when so many inputs in a row are bad.")
def encode(source: str, dataset: str, rule: str, area: int, round_to: int, **others: Any) -> None:
    """Encode the pictures of SOURCE into the code shards of DATASET; the same command resumes.

    SOURCE is a folder of images (captions: a .txt of the same name, metadata.jsonl or captions.csv) or a
    .json/.jsonl list of {name|key, image, text}.
    """
    from vq_stage.encode import EncodeOptions
    from vq_stage.encode import encode as run
    from vq_stage.preprocess import Preprocessing

    result = run(EncodeOptions(source, dataset, preprocessing=Preprocessing(rule, area, round_to), **_given(others)))
    say(f"{dataset}: {result.rows} images encoded, {result.quarantined} quarantined in {result.elapsed_s:.1f} s")
    if result.inputs_added_since:
        say(f"{result.inputs_added_since} inputs came after the plan was frozen; encode them into another dataset")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


@main.command()
@click.argument("dataset")
@click.argument("out")
@model_options
@click.option("--format", type=click.Choice(["png", "jpg", "webp"]), default="png")
@click.option("--quality", type=int, default=95, help="Of jpg and webp, 1 to 100.")
@click.option("--batch-pixels", type=int, default=512 * 512, help="Pixels a batch at most (at least one image).")
def decode(dataset: str, out: str, **others: Any) -> None:
    """Decode the codes of DATASET into pictures in OUT, named by key; the same command resumes."""
    from vq_stage.decode import DecodeOptions
    from vq_stage.decode import decode as run

    result = run(DecodeOptions(dataset, out, **_given(others)))
    say(f"{out}: {result.written} pictures written, {result.skipped} were there")
    for key, error in result.invalid:
        say(f"{key}: no picture: {error}")


@main.command()
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--sheet", metavar="FILE.png", help="Also draw a contact sheet of decoded pictures with captions.")
@click.option("--sheet-rows", type=int, default=64, help="Pictures on the sheet, spread over the dataset.")
@click.option("--vision-tokenizer", metavar="DIR", help="Tokenizer for the sheet.  [default: embedded emu3-tiny]")
def inspect(dataset: str, as_json: bool, sheet: str | None, sheet_rows: int, vision_tokenizer: str | None) -> None:
    """Show what is in DATASET: rows, sizes, codebook use, quality, quarantine, speed."""
    from pipelines.report import summary_text
    from shared.dataset import Dataset
    from shared.summary import summarize

    summary = summarize(Dataset.open(dataset))
    click.echo(json.dumps(summary.to_dict(), indent=2) if as_json else summary_text(summary))
    if sheet:
        from vq_stage.contact_sheet import draw_contact_sheet

        draw_contact_sheet(dataset, sheet, sheet_rows, **_given({"vision_tokenizer": vision_tokenizer}))
        say(f"contact sheet: {sheet}")


@main.command()
@click.argument("dataset")
def verify(dataset: str) -> None:
    """Check every file and row of DATASET; name what is wrong; print the dataset digest last."""
    from tqdm import tqdm

    from shared.dataset import Dataset
    from shared.verify import verify_dataset

    opened = Dataset.open(dataset)
    with tqdm(total=len(opened.committed_units()), unit="unit", desc="verify", disable=None) as bar:
        report = verify_dataset(opened, on_unit=bar.update)
    for problem in report.problems:
        say(f"damaged: {problem}")
    state = "complete" if report.is_complete else "NOT complete: run the same command again"
    say(
        f"{report.units} of {report.planned_units} units, {report.rows} rows, {report.quarantined} quarantined; {state}"
    )
    if report.digest:
        click.echo(report.digest)
    sys.exit(1 if report.problems else 0)


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
            click.option("--slots", type=int, default=8, help="Sequences written at once."),
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


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those of sampling gathered into one object."""
    from lm_stage.sampling import Sampling

    names = ("temperature", "top_k", "top_p", "greedy")
    others = {name: value for name, value in options.items() if name not in names}
    return {**others, "sampling": Sampling(**{name: options[name] for name in names})}


@main.command()
@click.argument("prompts")
@click.argument("dataset")
@language_options
@click.option("--greedy", is_flag=True, help="Always the best token.")
@click.option("--ratio", default="1:1", help="Width:height.")
@click.option("--area", type=int, help="Pixels of an image.  [default: the model's, else 720²]")
@click.option("--height", type=int, help="Pixels; with --width instead of ratio and area.")
@click.option("--width", type=int)
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
def generate(prompts: str, dataset: str, prompting: str, vision_tokenizer: str | None, **others: Any) -> None:
    """Generate images for PROMPTS into token shards in DATASET; the same command resumes, inside an image too.

    PROMPTS is a .txt (a prompt a line), .json or .jsonl of {prompt, key, ratio, height, width, negative_prompt, seed,
    samples, images}, or a codes dataset whose captions are the prompts. `emu3 decode` makes the pictures.
    """
    from lm_stage.generate import GenerateOptions
    from lm_stage.generate import generate as run
    from lm_stage.templates import EMU3_NEGATIVE_PROMPT, EMU3_SUFFIX

    if prompting == "emu3":
        published = {"suffix": EMU3_SUFFIX, "negative_prompt": EMU3_NEGATIVE_PROMPT}
        others = {**others, **{name: text for name, text in published.items() if others[name] is None}}
    result = run(GenerateOptions(prompts, dataset, codec=_codec(vision_tokenizer), **_given(_sampling(others))))
    say(f"{dataset}: {result.rows} images generated, {result.quarantined} refused in {result.elapsed_s:.1f} s")
    if result.units_missing:
        say(f"{result.units_missing} units are still worked on by other jobs")


@main.command()
@click.argument("dataset")
@click.argument("answers")
@language_options
@click.option("--greedy/--sample", default=True, help="Always the best token, or draw.  [default: greedy]")
@click.option("--question", help="Asked about every image.  [default: Please describe the image.]")
@click.option("--questions", metavar="FILE.jsonl", help="{question, key, images} a line instead; images may be none.")
@click.option("--template", type=click.Choice(["chat", "stage1"]), default="chat")
@click.option("--max-new-tokens", type=int, default=1024)
def understand(dataset: str, answers: str, **others: Any) -> None:
    """Answer questions about the images of DATASET into ANSWERS (JSON lines); the same command resumes.

    Captions every image unless asked something else. Questions without images need no dataset: give `-`.
    """
    from lm_stage.understand import UnderstandOptions
    from lm_stage.understand import understand as run

    result = run(UnderstandOptions(None if dataset == "-" else dataset, answers, **_given(_sampling(others))))
    say(f"{answers}: {result.answered} answered, {result.kept} were there, {result.refused} refused")


def _codec(vision_tokenizer: str | None) -> str | None:
    from vq_stage.weights import codec_fingerprint

    return codec_fingerprint(vision_tokenizer) if vision_tokenizer else None


@main.command()
@click.argument("pipeline", metavar="PIPELINE.yaml")
@click.option("--out", metavar="DIR", help="Where the steps write.  [default: the file's `out`, else its name]")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A variable, or STEP.OPTION.")
@click.option("--from", "start_from", metavar="STEP", help="Do this step and all that need it again.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
def run(pipeline: str, out: str | None, changes: tuple[str, ...], start_from: str | None, dry_run: bool) -> None:
    """Run the steps of a pipeline that are not done or have changed; the same command resumes.

    PIPELINE.yaml is a file, or the name of a packaged example.
    """
    from pipelines.html_report import write_report
    from pipelines.pipeline import load_pipeline
    from pipelines.run import plan_steps, run_pipeline, table

    if bad := [change for change in changes if "=" not in change]:
        raise click.UsageError(f"--set {bad[0]}: expected NAME=VALUE")
    loaded = load_pipeline(pipeline, dict(change.split("=", 1) for change in changes), out, main)
    if start_from and start_from not in {step.name for step in loaded.steps}:
        raise click.UsageError(f"--from {start_from}: no such step")
    if dry_run:
        for state in plan_steps(loaded, start_from):
            click.echo(f"{state.state:<10} {state.step.name}: emu3 {' '.join(state.step.arguments)}")
        return
    done = run_pipeline(loaded, start_from, say)
    say(table(done))
    write_report(loaded, done, loaded.out / "report.html")
    say(f"look at {loaded.out / 'report.html'}")


@main.command()
@click.argument("out", default="demo")
@click.pass_context
def demo(context: click.Context, out: str) -> None:
    """The whole relay on embedded pictures and models: `emu3 run demo --out OUT`."""
    context.invoke(run, pipeline="demo", out=out)


@main.command("init-lm")
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
    from lm_stage.initialize import InitOptions, initialize

    say(f"language model written to {initialize(InitOptions(**options))}")


@main.command()
@click.argument("datasets", nargs=-1, required=True)
@click.argument("run")
@click.option("--model", metavar="DIR", help="Language model to start from.  [default: embedded emu3-tiny]")
@click.option("--held-out", multiple=True, metavar="DATASET", help="Never trained on; its loss is watched.")
@click.option("--steps", type=int, default=1000)
@click.option("--row-tokens", type=int, default=1024, help="Tokens of a row, into which samples are packed.")
@click.option("--rows", type=int, default=4, help="Rows a batch.")
@click.option("--accumulate", type=int, default=1, help="Batches a step.")
@click.option("--learning-rate", type=float, default=1e-4)
@click.option("--warmup", type=int, default=50, help="Steps of linear warm-up; a cosine follows.")
@click.option("--floor", type=float, default=0.1, help="Share of the learning rate at the end.")
@click.option("--weight-decay", type=float, default=0.1, help="Of matrices; norms do not decay.")
@click.option("--clip-norm", type=float, default=1.0, help="Largest norm of a gradient; 0: any.")
@click.option("--loss", type=click.Choice(["after_prompt", "visual", "text"]), default="after_prompt")
@click.option("--visual-weight", type=float, default=1.0, help="Weight of a visual token in the loss.")
@click.option("--caption-dropout", type=float, default=0.05, help="Share of captions left out, for guidance.")
@click.option("--freeze", multiple=True, metavar="NAME", help="Parameters whose name holds NAME do not move.")
@click.option("--lora-rank", type=int, default=0, help="Train adapters of this rank only; 0: the weights.")
@click.option("--lora-alpha", type=float, default=16.0, help="Adapters count alpha / rank times.")
@click.option("--lora-targets", multiple=True, default=["q_proj", "k_proj", "v_proj", "o_proj"], metavar="NAME")
@click.option("--seed", type=int, default=0)
@click.option("--skip-damaged", is_flag=True, help="Leave damaged samples out and list them, instead of stopping.")
@click.option("--max-bad-steps", type=int, default=5, help="Stop after so many steps in a row without a finite loss.")
@click.option("--save-every", type=int, default=200, help="Steps between checkpoints.")
@click.option("--keep", type=int, default=2, help="Checkpoints kept.")
@click.option("--evaluate-every", type=int, default=200, help="Steps between looks at the held-out loss.")
@click.option("--save-dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of RUN/model.")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of computing; weights stay float32.")
def sft(datasets: tuple[str, ...], run: str, **others: Any) -> None:
    """Fine-tune a language model on the shards of DATASETS into RUN; the same command resumes.

    A dataset is PATH[,task=image|understand|text][,weight=W]: caption to image (default), image to caption or answer,
    text alone (also a .jsonl of {text} or {question, answer}). RUN/model is the result.
    """
    from lm_stage.sft import SftOptions
    from lm_stage.sft import sft as run_sft

    result = run_sft(SftOptions(datasets, run, **_given(others)))
    held_out = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    say(f"{result.model}: {result.steps} steps, loss {result.loss:.4f}{held_out}")
    if result.too_long or result.damaged or result.bad_steps:
        say(
            f"left out: {result.too_long} samples too long for a row, {result.damaged} damaged (RUN/left_out.jsonl);"
            f" {result.bad_steps} steps without a finite loss"
        )


@main.command("train-vq")
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
@click.option("--readers", type=int, default=2, help="Threads that read and crop ahead of the device.")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto")
def train_vq(source: str, out: str, **others: Any) -> None:
    """Train or fine-tune a vision tokenizer on the pictures of SOURCE; the same command resumes."""
    from vq_stage.train import TrainVQOptions
    from vq_stage.train import train_vq as run

    say(f"tokenizer written to {run(TrainVQOptions(source, out, **_given(others)))}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without the options that were left at None, so that the options object supplies its default."""
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    main()
