"""Forwards and time for an image by window, on the embedded model: `python -m tests.benchmarks.bench_window`.

The codes of every window are compared with those of sequential decoding. Windows take turns within each round; times
are medians, and compilation is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import click
import numpy as np

from lm_stage import LanguageModel, SamplingOptions
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.model.options import EMBEDDED_MODEL
from lm_stage.text.renderer import SequenceRenderer
from shared.tokens.grid_formats import IMAGE
from tests.benchmarks.row import Row

PROMPTS = ("red apple", "full moon", "sun", "frog", "cat face", "automobile", "pizza", "evergreen tree")
SIDE = 8  # codes, as in the images that the model was trained on


def image_requests(model: LanguageModel, captions: Sequence[str]) -> list[VisualRequest]:
    renderer = SequenceRenderer(model.text_tokenizer, model.layout)
    negative, *prompts = (renderer.generation_prompt([text], IMAGE, 1, SIDE, SIDE).tolist() for text in ("", *captions))
    return [VisualRequest(str(i), ids, negative, SIDE, SIDE, seed=0) for i, ids in enumerate(prompts)]


def run(generator: VisualGenerator, requests: Sequence[VisualRequest]) -> tuple[np.ndarray, float, float]:
    """Generate all images together; return their codes, the mean number of forwards for each, and the seconds."""
    codes: dict[str, np.ndarray] = {}
    forwards, start_s = 0, time.perf_counter()
    for request in requests:
        generator.add(request)
    while running := len(generator.running):
        forwards += running
        codes |= {sequence.request.key: sequence.codes_THW() for sequence in generator.step()}
    elapsed_s = time.perf_counter() - start_s
    return np.array([codes[request.key] for request in requests]), forwards / len(requests), elapsed_s


@dataclass(frozen=True, slots=True)
class Measured:
    """What generating all images with one window took; `different` counts images unlike those of the first window."""

    window: int
    forwards: float
    seconds: float
    different: int

    def __str__(self) -> str:
        return (
            f"window {self.window:2}: {self.forwards:5.1f} forwards for an image, {self.seconds:.2f} s for all,"
            f" {self.different} different"
        )


def measure(generators: Sequence[VisualGenerator], requests: Sequence[VisualRequest], rounds: int) -> list[Measured]:
    """Measure generators with different windows, which take turns."""
    warm = [run(generator, requests) for generator in generators]
    seconds: list[list[float]] = [[] for _ in generators]
    for _ in range(rounds):
        for generator, times in zip(generators, seconds):
            times.append(run(generator, requests)[2])
    first = warm[0][0]
    return [
        Measured(generator.window, forwards, statistics.median(times), int((codes != first).any(axis=(1, 2, 3)).sum()))
        for generator, (codes, forwards, _), times in zip(generators, warm, seconds)
    ]


def measure_model(
    model: LanguageModel,
    requests: Sequence[VisualRequest],
    scale: float,
    temperature: float,
    windows: Sequence[int],
    rounds: int,
) -> list[Measured]:
    """Measure all windows with one guidance scale and temperature."""
    length = max(request.length for request in requests)
    sampling = SamplingOptions(temperature=temperature).resolved(model.prompting.codes)
    generators = [model.visual_generator(len(requests), length, sampling, scale, window) for window in windows]
    return measure(generators, requests, rounds)


def rows(quick: bool) -> list[Row]:
    """Compare windows with sequential decoding on the embedded model, guided and at temperature 1."""
    model = LanguageModel.from_pretrained(EMBEDDED_MODEL, device="cpu")
    requests = image_requests(model, PROMPTS)
    windows, rounds = ((1, 4), 1) if quick else ((1, 4, 16), 3)
    first, *others = measure_model(model, requests, 3.0, 1.0, windows, rounds)
    found = []
    for one in others:
        if one.different:
            raise RuntimeError(f"window {one.window}: {one.different} images differ from those of sequential decoding")
        name, peer = f"guided image of {SIDE}×{SIDE} codes, window {one.window}", "one code at a time"
        ratio = first.forwards / one.forwards
        found.append(Row(name, one.forwards, "forwards", peer, first.forwards, ratio))
        found.append(Row(name, one.seconds, "s", peer, first.seconds, first.seconds / one.seconds))
    return found


@click.command()
@click.option("--model", "directory", default=EMBEDDED_MODEL, show_default=True, help="Model of 8×8 codes.")
@click.option("--prompt", "prompts", multiple=True, default=PROMPTS, help="Caption of an image; repeatable.")
@click.option("--window", "windows", multiple=True, type=int, default=(1, 2, 4, 8, 16, 64), show_default=True)
@click.option("--temperature", "temperatures", multiple=True, type=float, default=(1.0, 0.3), show_default=True)
@click.option("--guidance-scale", "scales", multiple=True, type=float, default=(1.0, 3.0), show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
def main(
    directory: str,
    prompts: tuple[str, ...],
    windows: tuple[int, ...],
    temperatures: tuple[float, ...],
    scales: tuple[float, ...],
    rounds: int,
) -> None:
    """Measure a model; the first window is what the others are compared with."""
    model = LanguageModel.from_pretrained(directory, device="cpu")
    requests = image_requests(model, prompts)
    for scale, temperature in product(scales, temperatures):
        click.echo(f"{len(requests)} images, guidance {scale:g}, temperature {temperature:g}")
        for one in measure_model(model, requests, scale, temperature, windows, rounds):
            click.echo(f"  {one}")


if __name__ == "__main__":
    main()
