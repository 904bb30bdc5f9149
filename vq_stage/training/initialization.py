"""Initial weights of a network that already passes colors through.

Residual branches end in zeros; the convolutions between them average, blur or copy. What remains is linear: the encoder
computes the mean color of the pixels of a code and one luma gradient, the decoder returns that color. Training starts
from a blocky picture instead of noise and spends its steps on detail.

Normalization would remove the colors, so they travel in pairs (x, −x) beside constants (c, −c), which fix the scale of
their group, and a pair is read as SiLU(x) − SiLU(−x) = x. Temporal layers use SiLU around a point where it is nearly
linear.
"""

from __future__ import annotations

import math

import numpy as np
from mindspore import Parameter, Tensor

from vq_stage.model.emu3 import Emu3Network
from vq_stage.model.ibq import IbqNetwork
from vq_stage.model.spatial_config import NORM_GROUPS

CONSTANT = 4.0
NOISE = 0.05  # share of the usual random weights, added everywhere so that equal channels diverge
GRADIENT_GAIN = 2.0
SILU_AT = 2.0  # where temporal layers use SiLU; its value and slope there
SILU_VALUE = SILU_AT / (1 + math.exp(-SILU_AT))
SILU_SLOPE = SILU_VALUE / SILU_AT * (1 + SILU_AT - SILU_VALUE)
AVERAGE = np.array([[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]])
BLUR = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
HORIZONTAL_GRADIENT = np.array([[0.25, -0.25, 0], [0.25, -0.25, 0], [0, 0, 0]])
CONSTANT_LATENT = 3.0
COLOR_SCALE = 0.7  # root mean square of the colors of a picture in [-1, 1]
MIN_GROUP_CHANNELS = 4  # a pair and its constants

Parameters = dict[str, Parameter]
Random = np.random.Generator


def initialize_emu3(model: Emu3Network, seed: int) -> None:
    """Set every weight: random by fan-in, then to pass colors through, if groups are wide enough for pairs."""
    random, parameters = np.random.default_rng(seed), dict(model.parameters_and_names())
    _initialize_randomly(parameters, random)
    _initialize_temporal_layers(parameters, random)
    if _has_wide_groups(model):
        _initialize_spatial_layers(parameters, random)
        _initialize_encoder_ends(parameters, random)
        _initialize_decoder_ends(parameters, random)


def initialize_ibq(model: IbqNetwork, seed: int) -> None:
    """Set every weight: random by fan-in, then to pass colors through, if groups are wide enough for pairs.

    Products select codes by direction alone, so the last latent is a constant: beside it, colors differ in direction.
    """
    random, parameters = np.random.default_rng(seed), dict(model.parameters_and_names())
    _initialize_randomly(parameters, random)
    _initialize_spatial_layers(parameters, random)
    if _has_wide_groups(model):
        _initialize_encoder_ends(parameters, random)
        _initialize_projections(parameters, random)
        _initialize_plain_decoder_ends(parameters, random)


def _has_wide_groups(model: Emu3Network | IbqNetwork) -> bool:
    return model.config.level_channels(-1) // NORM_GROUPS >= MIN_GROUP_CHANNELS


def _initialize_randomly(parameters: Parameters, random: Random) -> None:
    for p in parameters.values():
        if p.ndim >= 2:
            _set(p, _fan_in_uniform(p, random))


def _initialize_temporal_layers(parameters: Parameters, random: Random) -> None:
    """Keep the values of frames through the causal convolutions; a clip becomes the mean of its frames."""
    for name, p in parameters.items():
        if p.ndim != 5:
            if name.endswith("conv.bias") and ".time_conv." in name:
                _set(p, np.full(p.shape, SILU_AT if ".0." in name else SILU_AT - SILU_VALUE / SILU_SLOPE))
            continue
        value = NOISE * _fan_in_uniform(p, random)
        if ".time_res_stack." in name:
            value *= ".conv1." in name
        else:
            taps = (-1, -2) if name.startswith("encoder.time_conv.") else (-1,)
            is_after_silu = ".time_conv.1." in name or name.startswith("quant_conv.")
            for tap in taps:
                center = value[:, :, tap, p.shape[3] // 2, p.shape[4] // 2]
                center += np.eye(*p.shape[:2]) / len(taps) / (SILU_SLOPE if is_after_silu else 1.0)
        _set(p, value)
    bias = parameters["quant_conv.conv.bias"]
    _set(bias, np.full(bias.shape, -SILU_VALUE / SILU_SLOPE))


def _initialize_spatial_layers(parameters: Parameters, random: Random) -> None:
    """Zero the residual branches; let the layers between them copy, average or blur each channel."""
    for name, p in parameters.items():
        if name.endswith((".conv2.weight", ".out_proj.weight")) and p.ndim in (2, 4):
            _set(p, np.zeros(p.shape))
        elif name.endswith("nin_shortcut.weight"):
            _set(p, _kernels(np.eye(*p.shape[:2]), np.ones((1, 1))) + NOISE * _fan_in_uniform(p, random))
        elif name.endswith("downsample.conv.weight"):
            _set(p, _kernels(np.eye(p.shape[0]), AVERAGE) + NOISE * _fan_in_uniform(p, random))
        elif name.endswith("upsample.conv.weight"):
            _set(p, _kernels(np.eye(p.shape[0]), BLUR) + NOISE * _fan_in_uniform(p, random))
        elif name.endswith("conv_y.weight"):
            _set(p, NOISE * _fan_in_uniform(p, random))
        elif name.endswith("conv_y.bias"):
            _set(p, np.ones(p.shape))


def _initialize_encoder_ends(parameters: Parameters, random: Random) -> None:
    """Read and write sets of four channels (x, −x, c, −c), where x is a color, or luma in every fourth set."""
    conv_in, bias_in = parameters["encoder.conv_in.weight"], parameters["encoder.conv_in.bias"]
    weight, bias = NOISE * _fan_in_uniform(conv_in, random), np.zeros(bias_in.shape)
    sets = range(conv_in.shape[0] // 4)
    luma_sets = [j for j in sets if j % 4 == 3]
    for j in sets:
        colors = [0, 1, 2] if j in luma_sets else [j % 4]
        weight[4 * j : 4 * j + 4] *= np.array([1, 1, 0, 0])[:, None, None, None]
        weight[4 * j, colors, 1, 1] += 1 / len(colors)
        weight[4 * j + 1, colors, 1, 1] -= 1 / len(colors)
        bias[4 * j + 2], bias[4 * j + 3] = CONSTANT, -CONSTANT
    _set(conv_in, weight)
    _set(bias_in, bias)
    _set_luma_gradients(parameters, luma_sets)
    conv_out = parameters["encoder.conv_out.weight"]
    weight = NOISE * _fan_in_uniform(conv_out, random)
    for latent in range(conv_out.shape[0]):
        read_sets = [j for j in sets if j % 4 == latent % 4]
        for j in read_sets:
            weight[latent, 4 * j, 1, 1] += CONSTANT / math.sqrt(2) / len(read_sets)
            weight[latent, 4 * j + 1, 1, 1] -= CONSTANT / math.sqrt(2) / len(read_sets)
    _set(conv_out, weight)


def _set_luma_gradients(parameters: Parameters, luma_sets: list[int]) -> None:
    """Make the encoder's last downsampling compute gradients of luma, alternately horizontal and vertical."""
    names = [name for name in parameters if name.startswith("encoder.down_block") and "downsample.conv.weight" in name]
    last = parameters[max(names)]
    value = last.asnumpy().copy()
    for index, j in enumerate(luma_sets):
        for channel in (4 * j, 4 * j + 1):
            value[channel, channel] = GRADIENT_GAIN * (HORIZONTAL_GRADIENT if index % 2 else HORIZONTAL_GRADIENT.T)
    _set(last, value)


def _initialize_decoder_ends(parameters: Parameters, random: Random) -> None:
    """Bring the colors in as pairs at the last modulation; features join with a small weight."""
    conv_b, bias_b = parameters["decoder.norm_out.conv_b.weight"], parameters["decoder.norm_out.conv_b.bias"]
    conv_out = parameters["decoder.conv_out.weight"]
    weight_b, value_b = np.zeros(conv_b.shape), np.zeros(bias_b.shape)
    weight_out = NOISE * _fan_in_uniform(conv_out, random)
    pairs = conv_b.shape[0] // 2
    for i in range(pairs):
        color, pairs_of_color = i % 3, len(range(i % 3, pairs, 3))
        for channel, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
            weight_b[channel, color] = sign / SILU_SLOPE
            value_b[channel] = -sign * SILU_VALUE / SILU_SLOPE
            weight_out[color, channel, 1, 1] += sign / pairs_of_color
    _set(conv_b, weight_b)
    _set(bias_b, value_b)
    _set(conv_out, weight_out)
    gain = parameters["decoder.norm_out.norm_layer.weight"]
    _set(gain, np.full(gain.shape, 2 * NOISE))


def _initialize_projections(parameters: Parameters, random: Random) -> None:
    """Copy latents on both sides of the quantizer, except for the last one, which becomes a constant."""
    for name in ("quant_conv.weight", "post_quant_conv.weight"):
        p = parameters[name]
        _set(p, _kernels(np.eye(*p.shape[:2]), np.ones((1, 1))) + NOISE * _fan_in_uniform(p, random))
    weight, bias = parameters["quant_conv.weight"], parameters["quant_conv.bias"]
    is_last = np.arange(len(bias)) == len(bias) - 1
    _set(weight, weight.asnumpy() * ~is_last[:, None, None, None])
    _set(bias, CONSTANT_LATENT * is_last)


def _initialize_plain_decoder_ends(parameters: Parameters, random: Random) -> None:
    """Bring the colors in as pairs in the first half of the channels, and read them after the last norm.

    That norm divides a pair by its mean over the picture, COLOR_SCALE on average.
    """
    conv_in, conv_out = parameters["decoder.conv_in.weight"], parameters["decoder.conv_out.weight"]
    weight_in, weight_out = _fan_in_uniform(conv_in, random), NOISE * _fan_in_uniform(conv_out, random)
    pairs, copied = conv_out.shape[1] // 4, min(parameters["quant_conv.weight"].shape[:2]) - 1
    for i in range(pairs):
        color, pairs_of_color = i % 3, len(range(i % 3, pairs, 3))
        latents = range(color, copied, 4)
        for channel, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
            weight_in[channel] *= NOISE
            weight_in[channel, latents, 1, 1] += sign / max(len(latents), 1)
            weight_out[color, channel, 1, 1] += sign * COLOR_SCALE / pairs_of_color
    _set(conv_in, weight_in)
    _set(conv_out, weight_out)


def _kernels(mix: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return (c_out, c_in, k, k): the kernel (k, k) scaled by each entry of `mix` (c_out, c_in)."""
    return mix[:, :, None, None] * kernel


def _fan_in_uniform(p: Parameter, random: Random) -> np.ndarray:
    """Return uniform values in ±1/√fan_in."""
    return random.uniform(-1, 1, p.shape) / math.sqrt(np.prod(p.shape[1:]))


def _set(p: Parameter, value: np.ndarray) -> None:
    p.set_data(Tensor(np.ascontiguousarray(value, np.float32).reshape(p.shape)))
