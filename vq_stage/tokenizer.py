"""The vision tokenizer as callers use it: uint8 pixels to codes, and back.

Shape suffixes: B batch, T frames or clips, C channels, H W pixels, h w codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor

from shared.codec import TEMPORAL_FACTOR, code_dtype
from shared.device import Device, setup_device
from shared.errors import ShapeError
from shared.mindone import check_vision_backend
from vq_stage.model.config import VQConfig
from vq_stage.model.kernels import select
from vq_stage.model.network import VQModel
from vq_stage.model.weights import check_dimensions, load_weights, read_weights


class Backend(Protocol):
    """A model behind the tokenizer; pixels are float in [-1, 1]."""

    def encode_pixels(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return integer codes (B, 1, h, w) of images (T = 1) or 4-frame clips."""
        ...

    def decode_codes(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels of int32 codes: (B, 1, 3, H, W) for images, (B, 4·T, 3, H, W) for clips."""
        ...


class VisionTokenizer:
    """Converts images and video clips into grids of codes, and codes into pixels. Build it with `from_pretrained`.

    One code covers 8×8 pixels of an image, or of 4 frames of a video. Codes are integers in [0, K), where K is
    `config.codebook_size`.
    """

    def __init__(self, model: Backend, config: VQConfig, device: Device):
        self.model = model
        self.config = config
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

        `device` is auto, cpu or ascend; `dtype` float32 (default), float16 or bfloat16, the last two on Ascend only;
        `backend` native or mindone; `kernels` auto, or plain for the CPU's kernels on any device.
        Raises CheckpointError if a file is missing or weights and config do not fit, DeviceError if the device or
        backend is not available, UsageError for another backend.
        """
        config = VQConfig.from_directory(directory)
        check_dimensions(directory, config, read_weights(directory))
        chosen = setup_device(device, dtype, kernels=kernels)
        check_vision_backend(backend, chosen.kind, chosen.dtype, kernels)
        if backend == "native":
            model = VQModel(config, select(chosen)).compute_in(getattr(ms, chosen.dtype))
            load_weights(model, directory)
            model.set_train(False)
            return cls(model, config, chosen)
        from vq_stage.model.mindone import MindoneBackend

        return cls(MindoneBackend.from_pretrained(directory, config), config, chosen)

    @property
    def spatial_factor(self) -> int:
        """Pixels per code along each side: 8 for every published tokenizer."""
        return self.config.spatial_factor

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        """Encode uint8 RGB images (B, H, W, 3) in [0, 255] to codes (B, H/8, W/8), without resizing.

        Raises ShapeError if the array is not uint8 RGB or a side is not a positive multiple of 8.
        """
        pixels = self._check_pixels(pixels_BHWC, "B, H, W, 3")
        return self._encode(pixels[:, None])[:, 0]

    def encode_video(self, frames_THWC: np.ndarray, batch_size: int = 1) -> np.ndarray:
        """Encode uint8 RGB frames (T, H, W, 3) in [0, 255] to codes (T/4, H/8, W/8), without resizing.

        Every 4 frames are a clip of their own, independent of the others. `batch_size` clips are encoded at once; the
        last batch is padded with copies, so that each size is compiled once.
        Raises ShapeError if the array is not uint8 RGB, T is not a positive multiple of 4, or a side is not a positive
        multiple of 8.
        """
        frames = self._check_pixels(frames_THWC, "T, H, W, 3")
        if len(frames) == 0 or len(frames) % TEMPORAL_FACTOR:
            raise ShapeError(
                f"frames: expected a positive multiple of {TEMPORAL_FACTOR}, got {len(frames)}; drop or repeat frames"
            )
        clips = frames.reshape(-1, TEMPORAL_FACTOR, *frames.shape[1:])
        padded = np.concatenate([clips, np.repeat(clips[-1:], -len(clips) % batch_size, axis=0)])
        batches = [padded[start : start + batch_size] for start in range(0, len(padded), batch_size)]
        return np.concatenate([self._encode(batch)[:, 0] for batch in batches])[: len(clips)]

    def decode_images(self, codes_BHW: np.ndarray) -> np.ndarray:
        """Decode integer codes (B, h, w) in [0, K) to uint8 RGB images (B, 8h, 8w, 3).

        Raises ShapeError for another number of dimensions, another dtype or a code outside the range.
        """
        return self._decode(self._check_codes(codes_BHW, "B, h, w")[:, None], is_image=True)[:, 0]

    def decode_video(self, codes_THW: np.ndarray) -> np.ndarray:
        """Decode integer codes (T, h, w) in [0, K) of T independent clips to uint8 RGB frames (4·T, 8h, 8w, 3).

        Raises ShapeError as `decode_images` does.
        """
        codes = self._check_codes(codes_THW, "T, h, w")
        return np.concatenate([self._decode(clip[None, None], is_image=False)[0] for clip in codes])

    def _encode(self, pixels_BTHWC: np.ndarray) -> np.ndarray:
        pixels = Tensor(to_model_range(pixels_BTHWC), dtype=self._dtype)
        return self.model.encode_pixels(pixels).asnumpy().astype(code_dtype(self.config.codebook_size))

    def _decode(self, codes_BTHW: np.ndarray, is_image: bool) -> np.ndarray:
        pixels = self.model.decode_codes(Tensor(codes_BTHW.astype(np.int32)), is_image)
        return to_uint8(pixels.astype(ms.float32).asnumpy().transpose(0, 1, 3, 4, 2))

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
