"""Forwards and time for an image by window, on the embedded model: `python -m tests.benchmarks.bench_window`.

The codes of every window are compared with those of sequential decoding. Windows take turns within each round; times
are medians, and compilation is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import click
import numpy as np

from lm_stage import LanguageModel, SamplingOptions
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.model.options import EMBEDDED_MODEL
from lm_stage.text.renderer import SequenceRenderer
from shared.tokens.grid_formats import IMAGE

PROMPTS = ("red apple", "full moon", "sun", "frog", "cat face", "automobile", "pizza", "evergreen tree")
SIDE = 8  # codes, as in the images that the model was trained on


def image_requests(model: LanguageModel) -> list[VisualRequest]:
    renderer = SequenceRenderer(model.text_tokenizer, model.layout)
    negative, *prompts = (renderer.generation_prompt([text], IMAGE, 1, SIDE, SIDE).tolist() for text in ("", *PROMPTS))
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


def measure(generators: Sequence[VisualGenerator], requests: Sequence[VisualRequest], rounds: int) -> None:
    """Print a line for each generator, whose window is its own."""
    warm = [run(generator, requests) for generator in generators]
    seconds: list[list[float]] = [[] for _ in generators]
    for _ in range(rounds):
        for generator, times in zip(generators, seconds):
            times.append(run(generator, requests)[2])
    for generator, (codes, forwards, _), times in zip(generators, warm, seconds):
        different = int((codes != warm[0][0]).any(axis=(1, 2, 3)).sum())
        print(
            f"guidance {generator.guidance_scale:g}, temperature {generator.sampling.temperature:g}:"
            f" window {generator.window:2}: {forwards:5.1f} forwards, {warm[0][1] / forwards:.2f} times fewer,"
            f" {statistics.median(times):.2f} s for {len(requests)} images, {different} different",
            flush=True,
        )


@click.command()
@click.option("--window", "windows", multiple=True, type=int, default=(1, 2, 4, 8, 16, 64), show_default=True)
@click.option("--temperature", "temperatures", multiple=True, type=float, default=(1.0, 0.3), show_default=True)
@click.option("--guidance-scale", "scales", multiple=True, type=float, default=(1.0, 3.0), show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
def main(windows: tuple[int, ...], temperatures: tuple[float, ...], scales: tuple[float, ...], rounds: int) -> None:
    """Measure the embedded model; the first window is what the others are compared with."""
    model = LanguageModel.from_pretrained(EMBEDDED_MODEL, device="cpu")
    requests = image_requests(model)
    length = max(request.length for request in requests)
    for scale in scales:
        sampling = SamplingOptions()
        generators = [model.visual_generator(len(requests), length, sampling, scale, window) for window in windows]
        for temperature in temperatures:
            for generator in generators:
                generator.sampling = SamplingOptions(temperature=temperature)
            measure(generators, requests, rounds)


if __name__ == "__main__":
    main()
