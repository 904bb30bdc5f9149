"""Settings of a decode job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.errors import UsageError
from shared.jobs.engines import EngineOptions
from shared.mindone import check_vision_backend
from shared.storage.paths import absolute
from vq_stage.model.weights import EMBEDDED_TOKENIZER

IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # suffix -> Pillow's name
VIDEO_FORMATS = ("mp4", "webm", "webp", "frames")


@dataclass(frozen=True, slots=True)
class MediaFormats:
    """Formats of images and videos; `quality`, 1 to 100, applies to JPEG, WebP and video files.

    Raises UsageError, naming the command-line option, for values that cannot work.
    """

    image: str = "png"
    video: str = "mp4"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.image not in IMAGE_FORMATS:
            raise UsageError(f"--format {self.image!r}: expected one of {', '.join(IMAGE_FORMATS)}")
        if self.video not in VIDEO_FORMATS:
            raise UsageError(f"--video-format {self.video!r}: expected one of {', '.join(VIDEO_FORMATS)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: expected 1 to 100")

    def recorded(self) -> dict[str, object]:
        """Return the settings that must be the same in all runs into one folder."""
        videos = {"video_format": self.video} if self.video != "mp4" else {}
        return {"format": self.image, "quality": None if self.image == "png" else self.quality, **videos}


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Settings of a decode job; `batch_pixels` is the maximum per batch, but a batch has at least one image."""

    dataset: str
    out: str
    vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
    formats: MediaFormats = field(default_factory=MediaFormats)
    batch_pixels: int = 512 * 512
    device: str = "auto"
    dtype: str | None = None
    kernels: str = "auto"
    backend: str = "native"
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        check_vision_backend(self.backend, self.device, self.dtype, self.kernels)
        if self.batch_pixels < 1:
            raise UsageError(f"--batch-pixels {self.batch_pixels}: expected at least 1")

    def for_workers(self) -> DecodeOptions:
        """Return the options with absolute paths, for processes with another working directory."""
        return replace(
            self,
            dataset=absolute(self.dataset),
            out=absolute(self.out),
            vision_tokenizer=absolute(self.vision_tokenizer),
        )
