"""Speed of the vision stage compared with transformers' PyTorch `Emu3VQVAE`: same weights, one run, one machine.

    make bench                                   # real width and a small one
    python -m tests.benchmarks.bench_vision --width 64 --rounds 5

Peers take turns within each round; times are medians, and ratios are computed per round. `PyTorch, one frame` runs
the peer with our single-frame algorithm, which separates the gain of the algorithm from that of the implementation.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from shared.device import setup_device
from tests.benchmarks.row import OURS, Row, compared
from vq_stage import VisionTokenizer
from vq_stage.model.emu3 import Emu3Network
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.kernels import select
from vq_stage.training.initialization import initialize_emu3

TRANSFORMERS, ONE_FRAME = "transformers", "PyTorch, one frame"
GOALS = {
    ("encode", 256): {ONE_FRAME: 1.0},
    ("decode", 256): {TRANSFORMERS: 4.8, ONE_FRAME: 1.25},
    ("encode", 64): {ONE_FRAME: 1.0},
    ("decode", 64): {ONE_FRAME: 1.0},
}


def write_random_tokenizer(directory: Path, width: int) -> None:
    """Write a tokenizer of the published shape with any base width, random weights and Hugging Face naming."""
    config = Emu3Config(base_channels=width)
    model = Emu3Network(config, select(setup_device("cpu")))
    initialize_emu3(model, seed=0)
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    save_file({name: p.asnumpy() for name, p in model.parameters_and_names()}, directory / "model.safetensors")


class TorchPeer:
    """transformers' model; the methods `…_one_frame` run the spatial network once per image, as ours does."""

    def __init__(self, directory: Path):
        torch.set_num_threads(os.cpu_count() or 1)
        config = Emu3VQVAEConfig(**json.loads((directory / "config.json").read_text()))
        self.model = Emu3VQVAE(config).eval()
        from safetensors.torch import load_file

        missing, extra = self.model.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
        if extra or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError(f"weights do not fit the peer: missing {missing}, extra {extra}")

    @torch.inference_mode()
    def encode(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        pixels = self._pixels(pixels_BHWC)
        sizes = torch.tensor([pixels_BHWC.shape[1:3]] * len(pixels))
        return torch.stack(self.model.encode(pixels, sizes)).numpy()

    @torch.inference_mode()
    def encode_one_frame(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        encoder = self.model.encoder
        x = encoder.middle_block(encoder.down_block(encoder.conv_in(self._pixels(pixels_BHWC))))
        x = encoder.norm_out(x)
        x = encoder.conv_out(x * torch.sigmoid(x))
        x = x[:, :, None].repeat(1, 1, 4, 1, 1)
        for conv in encoder.time_conv:
            x = conv(x)
            x = x * torch.sigmoid(x)
        for layer in encoder.time_res_stack:
            x = layer(x)
        return self.model.quantize(self.model.quant_conv(x).permute(0, 2, 1, 3, 4))[:, 0].numpy()

    @torch.inference_mode()
    def decode(self, codes_BHW: np.ndarray) -> np.ndarray:
        return self._to_uint8(self.model.decode(torch.from_numpy(codes_BHW.astype(np.int64))))

    @torch.inference_mode()
    def decode_one_frame(self, codes_BHW: np.ndarray) -> np.ndarray:
        decoder, codes = self.model.decoder, torch.from_numpy(codes_BHW.astype(np.int64))
        entries = self.model.quantize.embedding(codes).permute(0, 3, 1, 2)[:, :, None]
        both = torch.cat((self.model.post_quant_conv(entries), entries))
        for layer in decoder.time_res_stack:
            both = layer(both)
        for conv in decoder.time_conv:
            both = conv.conv(both)  # the first frame depends on no other, so frames need not be doubled
            both = both * torch.sigmoid(both)
        latents, entries = both[:, :, 0].chunk(2)
        x = decoder.up_block(decoder.middle_block(decoder.conv_in(latents), entries), entries)
        x = decoder.norm_out(x, entries)
        return self._to_uint8(decoder.conv_out(x * torch.sigmoid(x)))

    @staticmethod
    def _pixels(pixels_BHWC: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1

    @staticmethod
    def _to_uint8(pixels: torch.Tensor) -> np.ndarray:
        return ((pixels + 1) * 127.5).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def take_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run in every round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def print_table(title: str, seconds: dict[str, list[float]]) -> None:
    ours = seconds[OURS]
    for name, values in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(values, ours)]
        median = statistics.median(values)
        click.echo(
            f"{title:<26} {name:<20} {median:8.3f} s {1 / median:8.2f} images/s  {statistics.median(ratios):6.2f}×"
        )


def rows(quick: bool) -> list[Row]:
    """Compare both widths, the small one only if `quick`."""
    return [row for width in ((64,) if quick else (256, 64)) for row in compare(width, picture(256), 3)]


def picture(size: int) -> np.ndarray:
    """Return a picture of coloured blocks, uint8 (1, size, size, 3)."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, size // 8, size // 8, 3), dtype=np.uint8)
    return pixels.repeat(8, axis=1).repeat(8, axis=2)


@click.command()
@click.option(
    "--width", "widths", type=int, multiple=True, default=(64, 256), help="Base width; 256 is the published one."
)
@click.option("--size", type=int, default=256, help="Side of the image in pixels.")
@click.option("--rounds", type=int, default=3, help="Number of timed rounds.")
def main(widths: tuple[int, ...], size: int, rounds: int) -> None:
    """Print images per second, one image at a time; the last column is the peer's time divided by ours."""
    click.echo(f"{os.cpu_count()} cores, torch {torch.__version__}, {size}×{size}, {rounds} rounds, medians")
    for width in widths:
        compare(width, picture(size), rounds)


def compare(width: int, pixels: np.ndarray, rounds: int) -> list[Row]:
    """Check that both compute the same, then time them in turns."""
    with tempfile.TemporaryDirectory() as folder:
        write_random_tokenizer(Path(folder), width)
        ours, peer = VisionTokenizer.from_pretrained(folder), TorchPeer(Path(folder))
    codes = ours.encode_images(pixels)
    equal = float((codes == peer.encode(pixels)).mean())
    difference = np.abs(ours.decode_images(codes).astype(int) - peer.decode(codes)).max()
    click.echo(f"width {width}: {equal:.2%} of the codes equal the peer's, pixels differ by at most {difference}")
    encode = {
        OURS: lambda: ours.encode_images(pixels),
        TRANSFORMERS: lambda: peer.encode(pixels),
        ONE_FRAME: lambda: peer.encode_one_frame(pixels),
    }
    decode = {
        OURS: lambda: ours.decode_images(codes),
        TRANSFORMERS: lambda: peer.decode(codes),
        ONE_FRAME: lambda: peer.decode_one_frame(codes),
    }
    found: list[Row] = []
    for task, runs in (("encode", encode), ("decode", decode)):
        seconds = take_turns(runs, rounds)
        print_table(f"{task}, base width {width}", seconds)
        name = f"{task} an image of {pixels.shape[1]}², base width {width}"
        found += compared(name, "images/s", dict.fromkeys(runs, 1), seconds, GOALS.get((task, width)))
    return found


if __name__ == "__main__":
    main()
