"""Speed of Emu3.5's vision tokenizer compared with its architecture in PyTorch: same weights, one run, one machine.

    python -m tests.benchmarks.run --only ibq            # the published width and a small one
    python -m tests.benchmarks.run --only ibq --quick    # the small one

The weights are random. The peer is `torch_ibq`, a statement of the published architecture of our own. Peers take turns
within each round; times are medians, and ratios are computed per round.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

from tests.benchmarks.bench_vision import picture, print_table, take_turns
from tests.benchmarks.row import OURS, Row, compared
from tests.benchmarks.torch_ibq import TorchIbq
from vq_stage import VisionTokenizer
from vq_stage.model.ibq_config import IbqConfig

PYTORCH = "PyTorch"
GOALS = {(task, 256): {PYTORCH: 1.2} for task in ("encode", "decode")}
SMALL_CODEBOOK = 16384


def write_random_tokenizer(directory: Path, config: IbqConfig) -> TorchIbq:
    """Write a tokenizer with random weights in the published form; return the peer, which has the same."""
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    peer = TorchIbq(config).eval()
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(peer.state_dict(), directory / "model.safetensors")
    return peer


@torch.inference_mode()
def encode(peer: TorchIbq, pixels_BHWC: np.ndarray) -> np.ndarray:
    return peer.encode(torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()


@torch.inference_mode()
def decode(peer: TorchIbq, codes_BHW: np.ndarray) -> np.ndarray:
    pixels = peer.decode(torch.from_numpy(codes_BHW.astype(np.int64)))
    return ((pixels + 1) * 127.5).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def rows(quick: bool) -> list[Row]:
    """Compare both widths, the small one only if `quick`."""
    return [row for width in ((64,) if quick else (256, 64)) for row in compare(width, picture(256), 3)]


def compare(width: int, pixels: np.ndarray, rounds: int) -> list[Row]:
    """Check that both compute the same, then time them in turns."""
    config = IbqConfig() if width == 256 else IbqConfig(base_channels=width, codebook_size=SMALL_CODEBOOK)
    with tempfile.TemporaryDirectory() as folder:
        peer = write_random_tokenizer(Path(folder), config)
        ours = VisionTokenizer.from_pretrained(folder)
    codes = ours.encode_images(pixels)
    equal = float((codes == encode(peer, pixels)).mean())
    difference = np.abs(ours.decode_images(codes).astype(int) - decode(peer, codes)).max()
    click.echo(f"width {width}: {equal:.2%} of the codes equal the peer's, pixels differ by at most {difference}")
    tasks = {
        "encode": {OURS: lambda: ours.encode_images(pixels), PYTORCH: lambda: encode(peer, pixels)},
        "decode": {OURS: lambda: ours.decode_images(codes), PYTORCH: lambda: decode(peer, codes)},
    }
    found: list[Row] = []
    for task, runs in tasks.items():
        seconds = take_turns(runs, rounds)
        print_table(f"{task}, Emu3.5, width {width}", seconds)
        name = f"Emu3.5: {task} an image of {pixels.shape[1]}², base width {width}"
        found += compared(name, "images/s", dict.fromkeys(runs, 1), seconds, GOALS.get((task, width)))
    return found
