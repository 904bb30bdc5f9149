"""The tensors of a published IBQ tokenizer by name, written from the description of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from vq_stage.model.ibq_config import IbqConfig

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def published_shapes(config: IbqConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor under its published name."""
    widths = [config.base_channels * multiplier for multiplier in config.channel_multiplier]
    shapes = {"quantize.embedding.weight": (config.codebook_size, config.embed_dim)}
    shapes.update(_convolution("quant_conv", config.latent_channels, config.embed_dim, 1))
    shapes.update(_convolution("post_quant_conv", config.embed_dim, config.latent_channels, 1))
    shapes.update(_encoder(config, widths))
    shapes.update(_decoder(config, widths))
    return shapes


def _encoder(config: IbqConfig, widths: list[int]) -> Shapes:
    yield from _convolution("encoder.conv_in", config.in_channels, config.base_channels, 3)
    before = config.base_channels
    for level, width in enumerate(widths):
        name = f"encoder.down.{level}"
        yield from _level(name, [before] + [width] * config.num_res_blocks, _has_attention(config, level))
        if level < len(widths) - 1:
            yield from _convolution(f"{name}.downsample.conv", width, width, 3)
        before = width
    yield from _ends("encoder", widths[-1], widths[-1], config.latent_channels)


def _decoder(config: IbqConfig, widths: list[int]) -> Shapes:
    yield from _convolution("decoder.conv_in", config.latent_channels, widths[-1], 3)
    for level, width in enumerate(widths):
        name, before = f"decoder.up.{level}", widths[min(level + 1, len(widths) - 1)]
        yield from _level(name, [before] + [width] * (config.num_res_blocks + 1), _has_attention(config, level))
        if level:
            yield from _convolution(f"{name}.upsample.conv", width, width, 3)
    yield from _ends("decoder", widths[-1], widths[0], config.out_channels)


def _ends(name: str, middle: int, width: int, channels: int) -> Shapes:
    """The middle, the last norm and the last convolution."""
    yield from _block(f"{name}.mid.block_1", middle, middle)
    yield from _attention(f"{name}.mid.attn_1", middle)
    yield from _block(f"{name}.mid.block_2", middle, middle)
    yield from _norm(f"{name}.norm_out", width)
    yield from _convolution(f"{name}.conv_out", width, channels, 3)


def _has_attention(config: IbqConfig, level: int) -> bool:
    return config.resolution // 2**level in config.attn_resolutions


def _level(name: str, widths: list[int], has_attention: bool) -> Shapes:
    for number, (c_in, c_out) in enumerate(pairwise(widths)):
        yield from _block(f"{name}.block.{number}", c_in, c_out)
        if has_attention:
            yield from _attention(f"{name}.attn.{number}", c_out)


def _block(name: str, c_in: int, c_out: int) -> Shapes:
    yield from _norm(f"{name}.norm1", c_in)
    yield from _convolution(f"{name}.conv1", c_in, c_out, 3)
    yield from _norm(f"{name}.norm2", c_out)
    yield from _convolution(f"{name}.conv2", c_out, c_out, 3)
    if c_in != c_out:
        yield from _convolution(f"{name}.nin_shortcut", c_in, c_out, 1)


def _attention(name: str, channels: int) -> Shapes:
    yield from _norm(f"{name}.norm", channels)
    for layer in ("q", "k", "v", "proj_out"):
        yield from _convolution(f"{name}.{layer}", channels, channels, 1)


def _norm(name: str, channels: int) -> Shapes:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _convolution(name: str, c_in: int, c_out: int, size: int) -> Shapes:
    yield f"{name}.weight", (c_out, c_in, size, size)
    yield f"{name}.bias", (c_out,)
