"""Weights to begin training from: a network that already passes colours through.

Residual branches end in zeros; the convolutions between them average, blur or copy. What is left is linear: the
encoder gives the mean colour of 8×8 pixels and one luma gradient, the decoder gives that colour back. Training
starts from a blocky picture in place of noise and spends its steps on detail.

Normalisation would remove the colours, so they travel in pairs (x, −x) beside constants (c, −c) that fix the scale
of their group, and a pair is read as SiLU(x) − SiLU(−x) = x. Temporal layers run SiLU where it is nearly straight.
"""

from __future__ import annotations

import math

import numpy as np
from mindspore import Parameter, Tensor

from vq_stage.model.config import GROUPS
from vq_stage.model.network import VQModel

CONSTANT = 4.0
NOISE = 0.05  # of the usual random weights, added everywhere so that equal channels grow apart
GRADIENT_GAIN = 2.0
SILU_AT = 2.0
SILU_VALUE = SILU_AT / (1 + math.exp(-SILU_AT))
SILU_SLOPE = SILU_VALUE / SILU_AT * (1 + SILU_AT - SILU_VALUE)
AVERAGE = np.array([[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]])
BLUR = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
ACROSS = np.array([[0.25, -0.25, 0], [0.25, -0.25, 0], [0, 0, 0]])


def initialize(model: VQModel, seed: int) -> None:
    """Sets every weight: random by fan-in, then, if groups are wide enough for pairs and constants, pass-through."""
    random = np.random.default_rng(seed)
    parameters = dict(model.parameters_and_names())
    for p in parameters.values():
        if p.ndim >= 2:
            _set(p, _random(p, random))
    _pass_time(parameters, random)
    if model.config.level_channels(-1) // GROUPS >= 4:
        _pass_space(parameters, random)


def _pass_time(parameters: dict[str, Parameter], random: np.random.Generator) -> None:
    """Frames keep their values through the causal convolutions; a clip becomes the mean of its frames."""
    for name, p in parameters.items():
        if p.ndim != 5:
            if name.endswith("conv.bias") and ".time_conv." in name:
                _set(p, np.full(p.shape, SILU_AT if ".0." in name else SILU_AT - SILU_VALUE / SILU_SLOPE))
            continue
        value = NOISE * _random(p, random)
        if ".time_res_stack." in name:
            value *= ".conv1." in name
        else:
            taps = (-1, -2) if name.startswith("encoder.time_conv.") else (-1,)
            is_after_silu = ".time_conv.1." in name or name.startswith("quant_conv.")
            for tap in taps:
                centre = value[:, :, tap, p.shape[3] // 2, p.shape[4] // 2]
                centre += np.eye(*p.shape[:2]) / len(taps) / (SILU_SLOPE if is_after_silu else 1.0)
        _set(p, value)
    bias = parameters["quant_conv.conv.bias"]
    _set(bias, np.full(bias.shape, -SILU_VALUE / SILU_SLOPE))


def _pass_space(parameters: dict[str, Parameter], random: np.random.Generator) -> None:
    for name, p in parameters.items():
        if name.endswith((".conv2.weight", ".out_proj.weight")) and p.ndim in (2, 4):
            _set(p, np.zeros(p.shape))
        elif name.endswith("nin_shortcut.weight"):
            _set(p, _spread(np.eye(*p.shape[:2]), np.ones((1, 1))) + NOISE * _random(p, random))
        elif name.endswith("downsample.conv.weight"):
            _set(p, _spread(np.eye(p.shape[0]), AVERAGE) + NOISE * _random(p, random))
        elif name.endswith("upsample.conv.weight"):
            _set(p, _spread(np.eye(p.shape[0]), BLUR) + NOISE * _random(p, random))
        elif name.endswith("conv_y.weight"):
            _set(p, NOISE * _random(p, random))
        elif name.endswith("conv_y.bias"):
            _set(p, np.ones(p.shape))
    _encoder_ends(parameters, random)
    _decoder_ends(parameters, random)


def _encoder_ends(parameters: dict[str, Parameter], random: np.random.Generator) -> None:
    """Channels 4j … 4j+3 are (x, −x, c, −c); x is a colour, and luma in every fourth set."""
    conv_in, bias_in = parameters["encoder.conv_in.weight"], parameters["encoder.conv_in.bias"]
    weight, bias = NOISE * _random(conv_in, random), np.zeros(bias_in.shape)
    sets = conv_in.shape[0] // 4
    luma = [j for j in range(sets) if j % 4 == 3]
    for j in range(sets):
        colours = [0, 1, 2] if j in luma else [j % 4]
        weight[4 * j : 4 * j + 4] *= np.array([1, 1, 0, 0])[:, None, None, None]
        weight[4 * j, colours, 1, 1] += 1 / len(colours)
        weight[4 * j + 1, colours, 1, 1] -= 1 / len(colours)
        bias[4 * j + 2], bias[4 * j + 3] = CONSTANT, -CONSTANT
    _set(conv_in, weight)
    _set(bias_in, bias)
    last = max(
        name for name in parameters if name.startswith("encoder.down_block") and "downsample.conv.weight" in name
    )
    value = parameters[last].asnumpy().copy()
    for place, j in enumerate(luma):
        for channel in (4 * j, 4 * j + 1):
            value[channel, channel] = GRADIENT_GAIN * (ACROSS if place % 2 else ACROSS.T)
    _set(parameters[last], value)
    conv_out = parameters["encoder.conv_out.weight"]
    weight = NOISE * _random(conv_out, random)
    for latent in range(conv_out.shape[0]):
        read = [j for j in range(sets) if j % 4 == latent % 4]
        for j in read:
            weight[latent, 4 * j, 1, 1] += CONSTANT / math.sqrt(2) / len(read)
            weight[latent, 4 * j + 1, 1, 1] -= CONSTANT / math.sqrt(2) / len(read)
    _set(conv_out, weight)


def _decoder_ends(parameters: dict[str, Parameter], random: np.random.Generator) -> None:
    """The last modulation brings the colours in as pairs; features join in with a small weight."""
    conv_b, bias_b = parameters["decoder.norm_out.conv_b.weight"], parameters["decoder.norm_out.conv_b.bias"]
    conv_out = parameters["decoder.conv_out.weight"]
    weight_b, value_b = np.zeros(conv_b.shape), np.zeros(bias_b.shape)
    weight_out = NOISE * _random(conv_out, random)
    pairs = conv_b.shape[0] // 2
    for i in range(pairs):
        colour, sign_count = i % 3, len(range(i % 3, pairs, 3))
        for channel, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
            weight_b[channel, colour] = sign / SILU_SLOPE
            value_b[channel] = -sign * SILU_VALUE / SILU_SLOPE
            weight_out[colour, channel, 1, 1] += sign / sign_count
    _set(conv_b, weight_b)
    _set(bias_b, value_b)
    _set(conv_out, weight_out)
    gain = parameters["decoder.norm_out.norm_layer.weight"]
    _set(gain, np.full(gain.shape, 2 * NOISE))


def _spread(mix: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The kernel (k, k) wherever `mix` (c_out, c_in) has weight: (c_out, c_in, k, k)."""
    return mix[:, :, None, None] * kernel


def _random(p: Parameter, random: np.random.Generator) -> np.ndarray:
    return random.uniform(-1, 1, p.shape) / math.sqrt(np.prod(p.shape[1:]))


def _set(p: Parameter, value: np.ndarray) -> None:
    p.set_data(Tensor(np.ascontiguousarray(value, np.float32).reshape(p.shape)))
