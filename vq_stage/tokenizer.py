"""The vision tokenizer as callers see it: uint8 pixels in, uint16 codes out, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor

from shared.codec import TEMPORAL_FACTOR
from shared.device import Device, setup_device
from shared.errors import ShapeError, UsageError
from vq_stage.model.config import VQConfig
from vq_stage.model.network import VQModel
from vq_stage.model.weights import load_weights

BACKENDS = ("native", "mindone")


class Backend(Protocol):
    """What a model must offer: pixels in [-1, 1] to codes and back; see VQModel for the shapes."""

    def encode(self, pixels_BTCHW: Tensor) -> Tensor: ...

    def decode(self, codes_BTHW: Tensor, is_image: bool) -> Tensor: ...


class VisionTokenizer:
    """Turns images and clips into grids of codes and codes into pixels. Build it with `from_pretrained`."""

    def __init__(self, model: Backend, config: VQConfig, device: Device):
        self.model = model
        self.config = config
        self.device = device
        self._dtype = getattr(ms, device.dtype)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, device: str = "auto", dtype: str | None = None, backend: str = "native"
    ) -> VisionTokenizer:
        """Loads a local directory with `config.json` and safetensors, of BAAI's or Hugging Face's naming.

        Raises CheckpointError if weights and config do not fit, DeviceError if the device is not there.
        """
        config = VQConfig.from_directory(directory)
        chosen = setup_device(device, dtype)
        if backend == "native":
            model = VQModel(config)
            load_weights(model, directory)
            model.set_train(False)
            if chosen.dtype != "float32":
                model.to_float(getattr(ms, chosen.dtype))
            return cls(model, config, chosen)
        if backend == "mindone":
            from vq_stage.model.mindone import MindoneModel

            return cls(MindoneModel.from_pretrained(directory, config, chosen), config, chosen)
        raise UsageError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")

    @property
    def spatial_factor(self) -> int:
        """Pixels a code along each side."""
        return self.config.spatial_factor

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        """uint8 images (B, H, W, 3) to uint16 codes (B, H/8, W/8); no resizing.

        Raises ShapeError if the sides are not multiples of 8 or the array is not uint8 RGB.
        """
        pixels = self._check_pixels(pixels_BHWC, "B, H, W, 3")
        return self._encode(pixels[:, None])[:, 0]

    def encode_video(self, frames_THWC: np.ndarray, batch: int = 1) -> np.ndarray:
        """uint8 frames (T, H, W, 3), T a multiple of 4, to uint16 codes (T/4, H/8, W/8).

        Every 4 frames are a clip of their own; `batch` of them are encoded at once, always filled up to it.
        """
        frames = self._check_pixels(frames_THWC, "T, H, W, 3")
        if len(frames) == 0 or len(frames) % TEMPORAL_FACTOR:
            raise ShapeError(f"frames: expected a multiple of {TEMPORAL_FACTOR}, got {len(frames)}; cut or repeat some")
        clips = frames.reshape(-1, TEMPORAL_FACTOR, *frames.shape[1:])
        padded = np.concatenate([clips, np.repeat(clips[-1:], -len(clips) % batch, axis=0)])
        codes = [self._encode(padded[start : start + batch])[:, 0] for start in range(0, len(padded), batch)]
        return np.concatenate(codes)[: len(clips)]

    def decode_images(self, codes_BHW: np.ndarray) -> np.ndarray:
        """Codes (B, h, w) in [0, K) to uint8 images (B, 8h, 8w, 3)."""
        return self._decode(self._check_codes(codes_BHW, "B, h, w")[:, None], is_image=True)[:, 0]

    def decode_video(self, codes_THW: np.ndarray) -> np.ndarray:
        """Codes (T, h, w) of T independent clips to uint8 frames (4·T, 8h, 8w, 3)."""
        codes = self._check_codes(codes_THW, "T, h, w")
        return np.concatenate([self._decode(clip[None, None], is_image=False)[0] for clip in codes])

    def _encode(self, pixels_BTHWC: np.ndarray) -> np.ndarray:
        scaled = np.ascontiguousarray(pixels_BTHWC.transpose(0, 1, 4, 2, 3), dtype=np.float32)
        scaled *= 2.0 / 255.0
        scaled -= 1.0
        return self.model.encode(Tensor(scaled, dtype=self._dtype)).asnumpy().astype(np.uint16)

    def _decode(self, codes_BTHW: np.ndarray, is_image: bool) -> np.ndarray:
        pixels = self.model.decode(Tensor(codes_BTHW.astype(np.int32)), is_image)
        return to_uint8(pixels.astype(ms.float32).asnumpy().transpose(0, 1, 3, 4, 2))

    def _check_pixels(self, pixels: np.ndarray, shape: str) -> np.ndarray:
        pixels = np.asarray(pixels)
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
            raise ShapeError(f"pixels: expected uint8 ({shape}), got {pixels.dtype} {pixels.shape}")
        height, width, factor = pixels.shape[1], pixels.shape[2], self.spatial_factor
        if not height or not width or height % factor or width % factor:
            raise ShapeError(
                f"pixels: expected sides that are multiples of {factor}, got {height}×{width}: resize first"
            )
        return pixels

    def _check_codes(self, codes: np.ndarray, shape: str) -> np.ndarray:
        codes = np.asarray(codes)
        if codes.ndim != 3 or codes.dtype.kind not in "iu":
            raise ShapeError(f"codes: expected integers ({shape}), got {codes.dtype} {codes.shape}")
        if codes.size == 0 or codes.min() < 0 or codes.max() >= self.config.codebook_size:
            found = f"{codes.min()} to {codes.max()}" if codes.size else "no code"
            raise ShapeError(f"codes: expected values in [0, {self.config.codebook_size}), got {found}")
        return codes


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels around [-1, 1] to uint8 as upstream does: shift, scale, clip, truncate."""
    return np.clip((pixels + 1.0) * 127.5, 0, 255).astype(np.uint8)
