"""Speed of image generation against transformers' PyTorch `Emu3ForCausalLM`: same weights, one run, one machine.

    python -m tests.benchmarks.bench_language --grid 24 --rounds 3

The peer generates as upstream does: the unconditional row has its own forward
(`UnbatchedClassifierFreeGuidanceLogitsProcessor`), the grammar is a prefix constraint, and top-k is 2048. Both take
turns within each round; figures are medians, and ratios are computed round by round. Compilation is printed but not
counted.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import (
    Emu3ForCausalLM,
    Emu3TextConfig,
    GenerationConfig,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from lm_stage import LanguageModel
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import parameter_shapes
from shared.tokens.grid_formats import IMAGE, grid_length
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import VISUAL, body_template
from tests.benchmarks.row import OURS, Row, compared

PEER = "transformers"
TEXT_TOKENS, CODES, PROMPT_TOKENS, GUIDANCE = 1000, 8192, 24, 3.0
LAYOUT = TokenLayout(
    pad=0, bos=1, eos=2, img=3, boi=4, eoi=5, eol=6, eof=7, first_visual_token=TEXT_TOKENS, codebook_size=CODES
)


def write_random_model(directory: Path, positions: int) -> int:
    """Write a decoder of 68 million parameters with random weights; return the exact number."""
    config = DecoderConfig(
        vocab_size=TEXT_TOKENS + CODES,
        hidden_size=640,
        intermediate_size=1792,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=5,
        max_position_embeddings=positions,
    )
    random = np.random.default_rng(0)
    tensors = {
        name: random.normal(0, 0.03, shape).astype(np.float32) if len(shape) > 1 else np.ones(shape, np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**config.to_dict(), "token_layout": LAYOUT.to_dict()}))
    return sum(tensor.size for tensor in tensors.values())


class TorchPeer:
    """transformers' model, generating as upstream does."""

    def __init__(self, directory: Path, height: int, width: int):
        torch.set_num_threads(os.cpu_count() or 1)
        config = DecoderConfig.from_directory(directory).to_dict()
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        more = ("num_key_value_heads", "max_position_embeddings", "rope_theta", "rms_norm_eps", "tie_word_embeddings")
        text = Emu3TextConfig(**{name: config[name] for name in names + more}, pad_token_id=LAYOUT.pad)
        self.model = Emu3ForCausalLM(text).eval()
        self.model.load_state_dict(load_file(directory / "model.safetensors"))
        visual = list(range(LAYOUT.first_visual_token, LAYOUT.end_of_visual))
        template = body_template(1, height, width, LAYOUT, IMAGE).tolist()
        self.allowed = [visual if token == VISUAL else [token] for token in template]

    @torch.inference_mode()
    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        return self.model(torch.from_numpy(token_ids_L[None]).long()).logits[0].numpy()

    @torch.inference_mode()
    def generate(self, prompts_BL: np.ndarray, negative_L: np.ndarray, tokens: int) -> np.ndarray:
        """Return the first `tokens` tokens of each image's body."""
        prompts = torch.from_numpy(prompts_BL).long()
        negative = torch.from_numpy(negative_L).long().expand(len(prompts), -1)
        processors = [
            UnbatchedClassifierFreeGuidanceLogitsProcessor(GUIDANCE, self.model, unconditional_ids=negative),
            PrefixConstrainedLogitsProcessor(lambda _, ids: self.allowed[len(ids) - prompts.shape[1]], num_beams=1),
        ]
        settings = GenerationConfig(
            do_sample=True, top_k=2048, max_new_tokens=tokens, use_cache=True, pad_token_id=0, eos_token_id=None
        )
        generated = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=settings,
            logits_processor=LogitsProcessorList(processors),
        )
        return generated[:, prompts.shape[1] :].numpy()


def run_generator(
    generator: VisualGenerator, prompts_BL: np.ndarray, negative_L: np.ndarray, height: int, width: int
) -> list[float]:
    """Generate one image for each prompt; return the seconds of every step."""
    for index, prompt in enumerate(prompts_BL):
        generator.add(VisualRequest(str(index), prompt.tolist(), negative_L.tolist(), height, width, seed=0))
    seconds = []
    while generator.running:
        start_s = time.perf_counter()
        generator.step()
        seconds.append(time.perf_counter() - start_s)
    return seconds


def take_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start_s)
    return seconds


def print_table(title: str, tokens: dict[str, int], seconds: dict[str, list[float]]) -> None:
    """Print the tokens of finished images per second; the last column is our rate over the peer's."""
    ours = [tokens[OURS] / value for value in seconds[OURS]]
    for name, values in seconds.items():
        rates = [tokens[name] / value for value in values]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, rates))
        click.echo(f"{title:<22} {name:<26} {statistics.median(rates):9.1f} tokens/s  {ratio:6.2f}×")


def rows(quick: bool) -> list[Row]:
    """Compare logits and guided generation, of smaller images if `quick`."""
    return measure(12, 16, 60, 1) if quick else measure(24, 16, 150, 3)


@click.command()
@click.option("--grid", type=int, default=24, help="Codes a side of an image.")
@click.option("--batch", type=int, default=16)
@click.option("--peer-tokens", type=int, default=150, help="Tokens the peer writes of each image of a batch.")
@click.option("--rounds", type=int, default=2)
def main(grid: int, batch: int, peer_tokens: int, rounds: int) -> None:
    """Measure tokens per second of guided generation, prefill, and the time of a step against the weights it reads."""
    measure(grid, batch, peer_tokens, rounds, with_steps=True)


def measure(grid: int, batch: int, peer_tokens: int, rounds: int, with_steps: bool = False) -> list[Row]:
    """Print everything, and return what has a peer."""
    length = PROMPT_TOKENS + grid_length(1, grid, grid, IMAGE)
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_random_model(Path(folder), max(length, 1024))
        ours, peer = LanguageModel.from_pretrained(folder), TorchPeer(Path(folder), grid, grid)
    click.echo(
        f"{os.cpu_count()} cores, torch {torch.__version__}, {parameters / 1e6:.0f} M parameters, images of"
        f" {grid}×{grid} codes, {rounds} rounds, medians"
    )
    random = np.random.default_rng(0)
    found = compare_prefill(ours, peer, random.integers(0, TEXT_TOKENS, 512).astype(np.int32), rounds)
    prompts_BL = random.integers(8, TEXT_TOKENS, (batch, PROMPT_TOKENS)).astype(np.int32)
    prompts_BL[:, -1] = LAYOUT.img
    negative_L = np.array([LAYOUT.bos, LAYOUT.boi, 9, LAYOUT.img], np.int32)
    by_count: dict[int, Row] = {}
    for count in dict.fromkeys((1, batch)):
        generator = warmed_generator(ours, count, length, prompts_BL, negative_L)
        by_count[count] = compare_generation(
            generator,
            peer,
            prompts_BL[:count],
            negative_L,
            grid,
            grid_length(1, grid, grid, IMAGE),
            peer_tokens,
            rounds,
        )
    if batch > 1:
        one_by_one, mine = by_count[1].peer_value or 0.0, by_count[batch].ours
        by_count[0] = Row(
            f"generate a batch of {batch} images of {grid}×{grid} codes",
            mine,
            "tokens/s",
            f"{PEER}, one by one",
            one_by_one,
            mine / one_by_one,
            goal=6.0,
        )
        click.echo(f"{batch} prompts in a batch, over the peer's one by one: {mine / one_by_one:.2f}×")
    if with_steps:
        print_steps(ours, length, prompts_BL, negative_L, grid, parameters)
    return [*found, *by_count.values()]


def compare_prefill(ours: LanguageModel, peer: TorchPeer, ids_L: np.ndarray, rounds: int) -> list[Row]:
    difference = float(np.abs(ours.logits(ids_L) - peer.logits(ids_L)).max())
    click.echo(f"logits of {len(ids_L)} tokens differ by at most {difference:.1e}")
    runs = {OURS: lambda: ours.logits(ids_L), PEER: lambda: peer.logits(ids_L)}
    seconds = take_turns(runs, max(rounds, 3))
    amounts = dict.fromkeys(runs, len(ids_L))
    print_table("logits of a sequence", amounts, seconds)
    return compared(f"logits of {len(ids_L)} tokens", "tokens/s", amounts, seconds, {PEER: 1.0})


def warmed_generator(
    ours: LanguageModel, batch_size: int, length: int, prompts_BL: np.ndarray, negative_L: np.ndarray
) -> VisualGenerator:
    """Return a generator that has run once, and print the seconds of compilation."""
    start_s = time.perf_counter()
    sampling = SamplingOptions().resolved(ours.prompting.codes)
    generator = ours.visual_generator(batch_size, length, sampling, GUIDANCE)
    run_generator(generator, prompts_BL[:batch_size], negative_L, 2, 2)
    click.echo(f"compiled for {batch_size} prompts in {time.perf_counter() - start_s:.1f} s")
    return generator


def compare_generation(
    generator: VisualGenerator,
    peer: TorchPeer,
    prompts_BL: np.ndarray,
    negative_L: np.ndarray,
    grid: int,
    tokens: int,
    peer_tokens: int,
    rounds: int,
) -> Row:
    """Compare the tokens of images; the peer's first ones are its fastest."""
    count = len(prompts_BL)
    written = tokens if count == 1 else min(peer_tokens, tokens)
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: run_generator(generator, prompts_BL, negative_L, grid, grid),
        PEER: lambda: peer.generate(prompts_BL, negative_L, written),
    }
    seconds, amounts = take_turns(runs, rounds), {OURS: count * tokens, PEER: count * written}
    print_table(f"{count} guided prompts", amounts, seconds)
    name = f"generate {'one guided image' if count == 1 else f'a batch of {count} images'} of {grid}×{grid} codes"
    return compared(name, "tokens/s", amounts, seconds, {PEER: 1.5 if count == 1 else 1.2})[0]


def print_steps(
    ours: LanguageModel, length: int, prompts_BL: Sequence, negative_L: np.ndarray, grid: int, parameters: int
) -> None:
    """Print whether a step is bound by reading the weights, and whether its time is constant as the image grows."""
    config = ours.config
    read = 4 * (parameters - config.vocab_size * config.hidden_size - TEXT_TOKENS * config.hidden_size)
    for batch_size in (1, 4, 8, 16):
        generator = warmed_generator(ours, batch_size, length, prompts_BL, negative_L)
        steps = run_generator(generator, prompts_BL[:batch_size], negative_L, grid, grid)
        quarter = len(steps) // 4
        first, last = statistics.median(steps[:quarter]), statistics.median(steps[-quarter:])
        click.echo(
            f"step of {batch_size:2d} guided prompts: {first * 1000:6.1f} ms in the first quarter of the image,"
            f" {last * 1000:6.1f} ms in the last; {read / 1e6:.0f} MB of weights,"
            f" {read / statistics.median(steps) / 1e9:.1f} GB/s"
        )


if __name__ == "__main__":
    main()
