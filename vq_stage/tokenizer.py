"""The vision tokenizer as callers use it: uint8 pixels to integer codes, and back.

Shape suffixes: B batch, T frames or clips, C channels, H W pixels, h w codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor

from shared.codec import NO_VIDEO_MESSAGE
from shared.device import Device, setup_device
from shared.errors import ShapeError, UsageError
from shared.mindone import check_vision_backend
from vq_stage.model.families import TokenizerConfig, build_network, load_mindone, read_config
from vq_stage.model.kernels import select
from vq_stage.model.weights import check_dimensions, load_weights, read_weights


class Backend(Protocol):
    """A model behind the tokenizer; pixels are float in [-1, 1]."""

    def encode_pixels(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return integer codes (B, 1, h, w) of images (T = 1), or of clips if the tokenizer supports video."""
        ...

    def decode_codes(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels of int32 codes: (B, 1, 3, H, W) for images, more frames for clips."""
        ...


class VisionTokenizer:
    """Converts images and video clips into grids of codes, and codes into pixels. Build it with `from_pretrained`.

    One code covers a square of `spatial_factor` pixels, in a video of `temporal_factor` frames: 8 and 4 for Emu3's
    tokenizer. Emu3.5's, with 16, encodes images only. Codes are integers in [0, K), where K is `config.codebook_size`.
    """

    def __init__(self, model: Backend, config: TokenizerConfig, device: Device):
        self.model = model
        self.config = config
        self.codec = config.codec
        self.device = device
        self._dtype = getattr(ms, device.dtype)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: str = "auto",
        dtype: str | None = None,
        backend: str = "native",
        kernels: str = "auto",
    ) -> VisionTokenizer:
        """Load a local directory with `config.json` and safetensors, of BAAI's or Hugging Face's naming.

        The config selects the network: that of Emu3 or of Emu3.5.

        `device` is auto, cpu or ascend; `dtype` float32 (default), float16 or bfloat16, the last two on Ascend only;
        `backend` native or mindone; `kernels` auto, or plain for the CPU's kernels on any device.
        Raises CheckpointError if a file is missing or weights and config do not fit, DeviceError if the device or
        backend is not available, UsageError for another backend or one that has no such network.
        """
        config = read_config(directory)
        check_dimensions(directory, config, read_weights(directory))
        chosen = setup_device(device, dtype, kernels=kernels)
        check_vision_backend(backend, chosen.kind, chosen.dtype, kernels)
        if backend == "native":
            model = build_network(config, select(chosen)).compute_in(getattr(ms, chosen.dtype))
            load_weights(model, directory)
            model.set_train(False)
            return cls(model, config, chosen)
        return cls(load_mindone(directory, config), config, chosen)

    @property
    def spatial_factor(self) -> int:
        """Pixels per code along each side."""
        return self.codec.spatial_factor

    @property
    def temporal_factor(self) -> int:
        """Frames per code; 1 if the tokenizer encodes images only."""
        return self.codec.temporal_factor

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        """Encode uint8 RGB images (B, H, W, 3) in [0, 255] to codes (B, h, w) of `codec.code_dtype`, without resizing.

        Raises ShapeError if the array is not uint8 RGB or a side is not a positive multiple of `spatial_factor`.
        """
        pixels = self._check_pixels(pixels_BHWC, "B, H, W, 3")
        return self._encode(pixels[:, None])[:, 0]

    def encode_video(self, frames_THWC: np.ndarray, batch_size: int = 1) -> np.ndarray:
        """Encode uint8 RGB frames (T, H, W, 3) in [0, 255] to codes (t, h, w) of `codec.code_dtype`, without resizing.

        Every `temporal_factor` frames are a clip of their own, independent of the others. `batch_size` clips are
        encoded at once; the last batch is padded with copies, so that each size is compiled once.
        Raises UsageError if the tokenizer encodes images only, ShapeError if the array is not uint8 RGB, T is not a
        positive multiple of `temporal_factor`, or a side is not a positive multiple of `spatial_factor`.
        """
        self._check_video()
        frames, factor = self._check_pixels(frames_THWC, "T, H, W, 3"), self.temporal_factor
        if len(frames) == 0 or len(frames) % factor:
            raise ShapeError(
                f"frames: expected a positive multiple of {factor}, got {len(frames)}; drop or repeat frames"
            )
        clips = frames.reshape(-1, factor, *frames.shape[1:])
        padded = np.concatenate([clips, np.repeat(clips[-1:], -len(clips) % batch_size, axis=0)])
        batches = [padded[start : start + batch_size] for start in range(0, len(padded), batch_size)]
        return np.concatenate([self._encode(batch)[:, 0] for batch in batches])[: len(clips)]

    def decode_images(self, codes_BHW: np.ndarray) -> np.ndarray:
        """Decode integer codes (B, h, w) in [0, K) to uint8 RGB images (B, H, W, 3).

        Raises ShapeError for another number of dimensions, another dtype or a code outside the range.
        """
        return self._decode(self._check_codes(codes_BHW, "B, h, w")[:, None], is_image=True)[:, 0]

    def decode_video(self, codes_THW: np.ndarray) -> np.ndarray:
        """Decode integer codes (t, h, w) in [0, K) of t independent clips to uint8 RGB frames (T, H, W, 3).

        Raises ShapeError as `decode_images` does, UsageError if the tokenizer has codes of images only.
        """
        self._check_video()
        codes = self._check_codes(codes_THW, "T, h, w")
        return np.concatenate([self._decode(clip[None, None], is_image=False)[0] for clip in codes])

    def _encode(self, pixels_BTHWC: np.ndarray) -> np.ndarray:
        pixels = Tensor(to_model_range(pixels_BTHWC), dtype=self._dtype)
        return self.model.encode_pixels(pixels).asnumpy().astype(self.codec.code_dtype)

    def _decode(self, codes_BTHW: np.ndarray, is_image: bool) -> np.ndarray:
        pixels = self.model.decode_codes(Tensor(codes_BTHW.astype(np.int32)), is_image)
        return to_uint8(pixels.astype(ms.float32).asnumpy().transpose(0, 1, 3, 4, 2))

    def _check_video(self) -> None:
        if not self.codec.supports_video:
            raise UsageError(NO_VIDEO_MESSAGE)

    def _check_pixels(self, pixels: np.ndarray, shape: str) -> np.ndarray:
        pixels = np.asarray(pixels)
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
            raise ShapeError(f"pixels: expected uint8 ({shape}), got {pixels.dtype} {pixels.shape}")
        height, width, factor = pixels.shape[1], pixels.shape[2], self.spatial_factor
        if not height or not width or height % factor or width % factor:
            raise ShapeError(
                f"pixels: expected sides that are multiples of {factor}, got {height}×{width}; resize first"
            )
        return pixels

    def _check_codes(self, codes: np.ndarray, shape: str) -> np.ndarray:
        codes = np.asarray(codes)
        if codes.ndim != 3 or codes.dtype.kind not in "iu":
            raise ShapeError(f"codes: expected integers ({shape}), got {codes.dtype} {codes.shape}")
        if codes.size == 0 or codes.min() < 0 or codes.max() >= self.config.codebook_size:
            found = f"{codes.min()} to {codes.max()}" if codes.size else "an empty array"
            raise ShapeError(f"codes: expected values in [0, {self.config.codebook_size}), got {found}")
        return codes


def to_model_range(pixels_BTHWC: np.ndarray) -> np.ndarray:
    """Convert uint8 pixels to float32 (B, T, C, H, W) in [-1, 1]."""
    scaled = np.ascontiguousarray(pixels_BTHWC.transpose(0, 1, 4, 2, 3), dtype=np.float32)
    scaled *= 2.0 / 255.0
    scaled -= 1.0
    return scaled


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels from [-1, 1] to uint8 as upstream does: shift, scale, clip, truncate."""
    return np.clip((pixels + 1.0) * 127.5, 0, 255).astype(np.uint8)
