"""Has a small language model learned its pictures? Captions to pictures, and pictures to names.

    python -m tests.benchmarks.evaluate_lm CODES --model DIR

Draws captions of CODES by seed, generates an image for each and looks for its nearest neighbour among all images
of CODES in the vision tokenizer's latents; then asks the model to describe the images of those captions.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.inference.sampling import SamplingOptions
from lm_stage.understand.job import understand
from lm_stage.understand.options import UnderstandOptions
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.storage.safetensors_reader import read_checkpoint
from vq_stage.model.weights import EMBEDDED_TOKENIZER


def latents(codes: list[np.ndarray]) -> np.ndarray:
    """(n, h·w·C): codebook entries of grids of one size."""
    codebook_KC = read_checkpoint(EMBEDDED_TOKENIZER)["quantize.embedding.weight"].float32()
    return codebook_KC[np.stack(codes)].reshape(len(codes), -1)


def nearest(queries: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Index of the nearest neighbour of every query (Euclidean)."""
    distances = (among**2).sum(1)[None] - 2 * queries @ among.T
    return distances.argmin(axis=1)


@click.command()
@click.argument("codes")
@click.option("--model", required=True)
@click.option("--count", type=int, default=64)
@click.option("--seed", type=int, default=0)
@click.option("--guidance-scale", type=float, default=1.0)
@click.option("--temperature", type=float, default=0.3)
def main(codes: str, model: str, count: int, seed: int, guidance_scale: float, temperature: float) -> None:
    index = KeyReader(Dataset.open(codes))
    keys = [key for key in index if index.row(key).text]
    captions = {key: index.row(key).text or "" for key in keys}
    chosen = [keys[i] for i in sorted(np.random.default_rng(seed).choice(len(keys), count, replace=False))]
    with tempfile.TemporaryDirectory() as folder:
        prompts, questions = Path(folder) / "prompts.jsonl", Path(folder) / "questions.jsonl"
        prompts.write_text("".join(json.dumps({"key": key, "prompt": captions[key]}) + "\n" for key in chosen))
        question = "Please describe the image."
        lines = [{"key": key, "question": question, "images": [key]} for key in chosen]
        questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
        generate(
            GenerateOptions(
                str(prompts),
                f"{folder}/images",
                model,
                guidance_scale=guidance_scale,
                sampling=SamplingOptions(temperature=temperature),
                batch_size=16,
            )
        )
        answers = f"{folder}/answers.jsonl"
        understand(UnderstandOptions(codes, answers, questions=str(questions), model=model, batch_size=16))
        made = KeyReader(Dataset.open(f"{folder}/images"))
        generated = {key: made.image(key) for key in made}
        answers = {
            a["key"]: a["answer"] for a in map(json.loads, Path(f"{folder}/answers.jsonl").read_text().splitlines())
        }
    found = nearest(latents([generated[key] for key in chosen]), latents([index.image(key) for key in keys]))
    right = [captions[keys[other]] == captions[key] for key, other in zip(chosen, found)]
    named = [answers[key].strip() == captions[key].strip() for key in chosen]
    for key, other, is_right in zip(chosen, found, right):
        click.echo(
            f"{'right' if is_right else 'WRONG'}  {captions[key]!r} → {captions[keys[other]]!r}; named {answers[key]!r}"
        )
    click.echo(
        f"nearest neighbour of the generated picture has its caption: {sum(right)} of {count} ({np.mean(right):.0%})"
    )
    click.echo(f"pictures described by their name: {sum(named)} of {count} ({np.mean(named):.0%})")


if __name__ == "__main__":
    main()
