"""Measures whether a small language model has learned its pictures: captions to pictures, and pictures to captions.

    python -m tests.benchmarks.evaluate_lm CODES --model DIR

Chooses captions of CODES by seed, generates an image for each and finds its nearest neighbor among all images of CODES
in the vision tokenizer's latents; then asks the model to describe the images of those captions.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.inference.options import SamplingOptions
from lm_stage.understand.job import understand
from lm_stage.understand.options import UnderstandOptions
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.storage.safetensors_reader import read_checkpoint
from vq_stage.model.weights import EMBEDDED_TOKENIZER


def latents(codes: list[np.ndarray]) -> np.ndarray:
    """Return the codebook entries (n, h·w·C) of grids of one size."""
    codebook_KC = read_checkpoint(EMBEDDED_TOKENIZER)["quantize.embedding.weight"].float32()
    return codebook_KC[np.stack(codes)].reshape(len(codes), -1)


def nearest(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the index of the nearest candidate (Euclidean) of every query."""
    distances = (candidates**2).sum(1)[None] - 2 * queries @ candidates.T
    return distances.argmin(axis=1)


def write_lines(path: Path, entries: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def generate_pictures(captions: dict[str, str], folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """Return the codes (H, W) of a picture for each caption, by key."""
    prompts = write_lines(folder / "prompts.jsonl", [{"key": k, "prompt": text} for k, text in captions.items()])
    generate(GenerateOptions(prompts, f"{folder}/images", batch_size=16, **options))
    index = KeyReader(Dataset.open(f"{folder}/images"))
    return {key: index.image(key) for key in captions}


def describe_pictures(codes: str, keys: list[str], folder: Path, model: str) -> dict[str, str]:
    """Return the description of each picture, by key."""
    question = "Please describe the image."
    questions = [{"key": key, "question": question, "images": [key]} for key in keys]
    answers = folder / "answers.jsonl"
    path = write_lines(folder / "questions.jsonl", questions)
    understand(UnderstandOptions(codes, str(answers), questions=path, model=model, batch_size=16))
    lines = map(json.loads, answers.read_text().splitlines())
    return {line["key"]: line["answer"].strip() for line in lines}


@click.command()
@click.argument("codes")
@click.option("--model", required=True)
@click.option("--count", type=int, default=64)
@click.option("--seed", type=int, default=0)
@click.option("--guidance-scale", type=float, default=1.0)
@click.option("--temperature", type=float, default=0.3)
def main(codes: str, model: str, count: int, seed: int, guidance_scale: float, temperature: float) -> None:
    index = KeyReader(Dataset.open(codes))
    captions = {key: text for key in index if (text := index.row(key).text)}
    keys = list(captions)
    chosen = [keys[i] for i in sorted(np.random.default_rng(seed).choice(len(keys), count, replace=False))]
    sampling = SamplingOptions(temperature=temperature)
    with tempfile.TemporaryDirectory() as name:
        texts = {key: captions[key] for key in chosen}
        options = {"model": model, "guidance_scale": guidance_scale, "sampling": sampling}
        generated = generate_pictures(texts, Path(name), **options)
        described = describe_pictures(codes, chosen, Path(name), model)
    neighbors = nearest(latents(list(generated.values())), latents([index.image(key) for key in keys]))
    right = 0
    for key, neighbor in zip(chosen, neighbors):
        is_right = captions[keys[neighbor]] == captions[key]
        right += is_right
        verdict = "right" if is_right else "WRONG"
        click.echo(f"{verdict}  {captions[key]!r} → {captions[keys[neighbor]]!r}; described as {described[key]!r}")
    exact = sum(described[key] == captions[key].strip() for key in chosen)
    click.echo(f"generated pictures whose nearest neighbor has their caption: {right} of {count} ({right / count:.0%})")
    click.echo(f"pictures described by their exact caption: {exact} of {count} ({exact / count:.0%})")


if __name__ == "__main__":
    main()
