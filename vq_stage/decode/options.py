"""Settings of a decode job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.errors import UsageError
from shared.jobs.engines import EngineOptions
from shared.storage.paths import absolute
from vq_stage.decode.output_files import MediaFormats
from vq_stage.model.weights import EMBEDDED_TOKENIZER


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
    backend: str = "native"
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
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
