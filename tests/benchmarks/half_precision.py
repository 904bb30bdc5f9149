"""What half precision costs the vision tokenizer: codes that differ from float32, and decoded pixels.

    python -m tests.benchmarks.half_precision --pictures 20 --side 128

Runs on CPU. Inputs, weights and outputs of every convolution and product are rounded to the half type, as on Ascend;
sums within them are in float32, and so is everything between them.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import click
import mindspore as ms
import numpy as np
from mindspore import Tensor
from PIL import Image

from shared.device import Device, setup_device
from vq_stage import VisionTokenizer
from vq_stage.encode.quality import psnr_db
from vq_stage.media.image_decoding import decode_rgb
from vq_stage.model.emu3 import Emu3Network
from vq_stage.model.families import read_config
from vq_stage.model.kernels import Kernels, cpu
from vq_stage.model.weights import EMBEDDED_TOKENIZER, load_weights

PICTURES = Path(__file__).parents[2] / "pipelines" / "demo" / "pictures"
HALF_TYPES = {"float16": ms.float16, "bfloat16": ms.bfloat16}


def rounded_kernels(dtype: ms.Type) -> Kernels:
    """Return the kernels of the CPU, with the inputs and outputs of convolutions and products rounded to `dtype`."""

    def rounded(x: Tensor) -> Tensor:
        return x.astype(dtype).astype(ms.float32)

    def conv2d(x_BCHW, weight, bias_C, stride=1, pad=0):
        return rounded(cpu.conv2d(rounded(x_BCHW), rounded(weight), rounded(bias_C), stride, pad))

    def causal_conv3d(x_BTCHW, weight, bias_C, stride=1):
        return rounded(cpu.causal_conv3d(rounded(x_BTCHW), rounded(weight), rounded(bias_C), stride))

    def upsample2x_conv(x_BCHW, weight, bias_C):
        return rounded(cpu.upsample2x_conv(rounded(x_BCHW), rounded(weight), rounded(bias_C)))

    def channel_linear(x_BCL, weight_CC, bias_C):
        return rounded(cpu.channel_linear(rounded(x_BCL), rounded(weight_CC), rounded(bias_C)))

    def attention(q_BCL, k_BCL, v_BCL, dtype):
        scale = q_BCL.shape[1] ** -0.5
        scores_BLL = rounded(ms.ops.bmm(rounded(q_BCL * scale).transpose(0, 2, 1), rounded(k_BCL)))
        weights_BLL = rounded(ms.ops.softmax(scores_BLL, -1))
        return rounded(ms.ops.bmm(rounded(v_BCL), weights_BLL.transpose(0, 2, 1)))

    class SpatialNorm(ms.nn.Cell):
        def __init__(self, groups, eps):
            super().__init__()
            self.group_norm = cpu.GroupNorm(groups, eps)

        def construct(self, x_BCHW, quantized_BCHW, norm, scale, shift):
            return self.group_norm(x_BCHW, *norm) * conv2d(quantized_BCHW, *scale) + conv2d(quantized_BCHW, *shift)

    halves = (SpatialNorm, conv2d, causal_conv3d, upsample2x_conv, channel_linear, attention)
    return SimpleNamespace(**{**vars(cpu), **{function.__name__: function for function in halves}})


def read_pictures(count: int, side: int) -> np.ndarray:
    """Return pictures of the demo, evenly chosen by name, as uint8 (count, side, side, 3)."""
    paths = sorted(path for path in PICTURES.rglob("*") if path.suffix in (".webp", ".jpg", ".png"))
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    images = [decode_rgb(path.read_bytes()) for path in chosen]
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in images])


def encoded_and_decoded(
    kernels: Kernels, directory: Path, device: Device, pictures: np.ndarray, codes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the codes, the pixels that these decode to, and the pixels of `codes`, if given."""
    config = read_config(directory)
    model = Emu3Network(config, kernels).set_train(False)
    load_weights(model, directory)
    tokenizer = VisionTokenizer(model, config, device)
    own = np.concatenate([tokenizer.encode_images(picture[None]) for picture in pictures])
    decoded = [np.concatenate([tokenizer.decode_images(one[None]) for one in c]) for c in (own, codes) if c is not None]
    return own, decoded[0], decoded[-1]


@click.command()
@click.option("--pictures", "count", default=20, show_default=True)
@click.option("--side", default=128, show_default=True)
def main(count: int, side: int) -> None:
    device, pictures = setup_device("cpu"), read_pictures(count, side)
    codes, own, _ = encoded_and_decoded(cpu, EMBEDDED_TOKENIZER, device, pictures, None)
    click.echo(f"float32: {codes.size} codes, decoded PSNR {psnr_db(own, pictures):.2f} dB")
    for name, dtype in HALF_TYPES.items():
        found = encoded_and_decoded(rounded_kernels(dtype), EMBEDDED_TOKENIZER, device, pictures, codes)
        click.echo(
            f"{name}: {np.mean(found[0] != codes):.2%} of the codes differ, decoded PSNR"
            f" {psnr_db(found[1], pictures):.2f} dB; the codes of float32 decode to pixels with a PSNR of"
            f" {psnr_db(found[2], own):.1f} dB, largest difference {np.abs(found[2].astype(int) - own).max()}"
        )


if __name__ == "__main__":
    main()
