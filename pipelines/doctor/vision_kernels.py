"""The kernels of the vision tokenizer as cases. Weights have the number type of the case, all else is float32.

Shape suffixes: see `vq_stage.model.kernels`.
"""

from __future__ import annotations

from typing import Any

from pipelines.doctor.kernel_case import Case, Computation, Inputs, Kernels, Sizes

GROUPS, LATENT_CHANNELS, FRAMES = 32, 4, 4
PAD_FOR_STRIDE = (0, 1, 0, 1)


def _image(inputs: Inputs, sizes: Sizes) -> Any:
    return inputs.full(1, sizes.channels, sizes.side, sizes.side)


def _weight(inputs: Inputs, sizes: Sizes, *taps: int) -> Any:
    C = sizes.channels
    fan_in = C
    for count in taps:
        fan_in *= count
    return inputs.half(C, C, *taps, scale=fan_in**-0.5)


def group_norm(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    tensors = _image(inputs, sizes), inputs.full(sizes.channels), inputs.full(sizes.channels)
    return Computation(kernels.GroupNorm(GROUPS, 1e-6), tensors, (0, 1, 2))


def spatial_norm(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    cell, C = kernels.SpatialNorm(GROUPS, 1e-6), sizes.channels

    def normalized(x_BCHW: Any, latents_BCHW: Any, *affines: Any) -> Any:
        return cell(x_BCHW, latents_BCHW, affines[:2], affines[2:4], affines[4:])

    latents_BCHW = inputs.full(1, LATENT_CHANNELS, sizes.side, sizes.side)
    norm = inputs.full(C), inputs.full(C)
    convolutions = [inputs.half(C, *rest) for rest in ((LATENT_CHANNELS, 1, 1), ()) * 2]
    return Computation(normalized, (_image(inputs, sizes), latents_BCHW, *norm, *convolutions), tuple(range(8)))


def conv2d(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    def convolved(x_BCHW: Any, weight: Any, bias_C: Any) -> Any:
        return kernels.conv2d(x_BCHW, weight, bias_C, pad=1)

    return Computation(convolved, _convolution(inputs, sizes, 3, 3), (0, 1, 2))


def conv2d_stride_2(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    def convolved(x_BCHW: Any, weight: Any, bias_C: Any) -> Any:
        return kernels.conv2d(x_BCHW, weight, bias_C, stride=2, pad=PAD_FOR_STRIDE)

    return Computation(convolved, _convolution(inputs, sizes, 3, 3), (0, 1, 2))


def causal_conv3d(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    x_BTCHW = inputs.full(1, FRAMES, sizes.channels, sizes.side // 2, sizes.side // 2)
    tensors = x_BTCHW, _weight(inputs, sizes, 3, 3, 3), inputs.half(sizes.channels)
    return Computation(kernels.causal_conv3d, tensors, (0, 1, 2))


def upsample2x_conv(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    return Computation(kernels.upsample2x_conv, _convolution(inputs, sizes, 3, 3), (0, 1, 2))


def upsample_nearest(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    def upsampled(x_BCHW: Any) -> Any:
        return kernels.upsample_nearest(x_BCHW, 2)

    return Computation(upsampled, (_image(inputs, sizes),), (0,))


def channel_linear(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    C = sizes.attention_channels
    x_BCL = inputs.full(1, C, sizes.side**2)
    return Computation(kernels.channel_linear, (x_BCL, inputs.half(C, C, scale=C**-0.5), inputs.half(C)), (0, 1, 2))


def attention(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    def attended(q_BCL: Any, k_BCL: Any, v_BCL: Any) -> Any:
        return kernels.attention(q_BCL, k_BCL, v_BCL, inputs.dtype)

    shape = 1, sizes.attention_channels, sizes.side**2
    return Computation(attended, tuple(inputs.full(*shape) for _ in range(3)), (0, 1, 2))


def nearest_codes(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    latents_BTCHW = inputs.full(1, 1, LATENT_CHANNELS, sizes.side, sizes.side)
    return Computation(kernels.nearest_codes, (latents_BTCHW, inputs.full(sizes.codebook, LATENT_CHANNELS)))


def argmax_codes(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    latents_BTCHW = inputs.full(1, 1, LATENT_CHANNELS, sizes.side, sizes.side)
    return Computation(kernels.argmax_codes, (latents_BTCHW, inputs.full(sizes.codebook, LATENT_CHANNELS)))


def lookup(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    codes_BTHW = inputs.ids(sizes.codebook, 1, 1, sizes.side, sizes.side)
    return Computation(kernels.lookup, (codes_BTHW, inputs.full(sizes.codebook, LATENT_CHANNELS)), (1,))


def mean_squared_error(kernels: Kernels, inputs: Inputs, sizes: Sizes) -> Computation:
    return Computation(kernels.mean_squared_error, (_image(inputs, sizes), _image(inputs, sizes)), (0, 1))


def _convolution(inputs: Inputs, sizes: Sizes, *taps: int) -> tuple[Any, Any, Any]:
    return _image(inputs, sizes), _weight(inputs, sizes, *taps), inputs.half(sizes.channels)


CASES: dict[str, Case] = {
    "group-norm": group_norm,
    "spatial-norm": spatial_norm,
    "conv2d": conv2d,
    "conv2d-stride-2": conv2d_stride_2,
    "causal-conv3d": causal_conv3d,
    "upsample2x-conv": upsample2x_conv,
    "upsample-nearest": upsample_nearest,
    "channel-linear": channel_linear,
    "attention": attention,
    "nearest-codes": nearest_codes,
    "argmax-codes": argmax_codes,
    "lookup": lookup,
    "mean-squared-error": mean_squared_error,
}
