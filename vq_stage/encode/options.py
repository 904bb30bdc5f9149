"""Settings of an encode job, and of a repair."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.codec import Codec
from shared.dataset.quarantine_reasons import DUPLICATE_CONTENT, DUPLICATE_KEY, ENCODE_REASONS, IMAGES_ONLY
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.jobs.engines import EngineOptions
from shared.mindone import check_vision_backend
from shared.storage.paths import absolute
from vq_stage.media.resizing import Preprocessing
from vq_stage.model.codec import read_codec
from vq_stage.model.weights import EMBEDDED_TOKENIZER
from vq_stage.video.clips import ClipSampling

DUPLICATES = ("keep", "once")
NOT_RETRIED = (DUPLICATE_KEY, DUPLICATE_CONTENT, IMAGES_ONLY)  # the source itself has to change first


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Settings of an encode job.

    `image_root` is the folder of the relative paths in a list, by default that of the list; `key` is the field of a
    list or the column of a table with the keys.
    `batch_pixels` is the maximum number of pixels per batch, but a batch has at least one image. `quality_samples`
    inputs of each unit are decoded again to measure the quality. `duplicates` is keep or once: encode every file, or
    only the first of equal files. An input that is not read within `read_timeout_s` is refused. `retry_quarantined`
    lists reasons whose quarantined inputs are tried again. With `update_texts` the captions and labels of encoded
    inputs are replaced where they differ in the source.
    Raises UsageError, naming the command-line option, for values that cannot work.
    """

    source: str
    dataset: str
    vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    sampling: ClipSampling = field(default_factory=ClipSampling)
    unit_rows: int = 256
    batch_pixels: int = 512 * 512
    quality_samples: int = 1
    reader_threads: int = 2
    read_timeout_s: float = 300.0
    device: str = "auto"
    dtype: str | None = None
    kernels: str = "auto"
    backend: str = "native"
    allow_numerics_change: bool = False
    max_refused_in_a_row: int = 1000
    duplicates: str = "keep"
    retry_quarantined: tuple[str, ...] = ()
    update_texts: bool = False
    image_root: str | None = None
    key: str | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        check_vision_backend(self.backend, self.device, self.dtype, self.kernels)
        for name in ("unit_rows", "batch_pixels", "reader_threads", "max_refused_in_a_row"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if not self.read_timeout_s > 0:
            raise UsageError(f"--read-timeout {self.read_timeout_s}: expected more than 0 seconds")
        if self.quality_samples < 0:
            raise UsageError(f"--quality-samples {self.quality_samples}: expected at least 0")
        if self.duplicates not in DUPLICATES:
            raise UsageError(f"--duplicates {self.duplicates}: expected one of {', '.join(DUPLICATES)}")
        for reason in self.retry_quarantined:
            _check_retried(reason)

    def recorded(self) -> DatasetSettings:
        """Return the settings that decide the codes, with the tokenizer's codec; does not import MindSpore.

        Raises UsageError as `check` does.
        """
        codec = read_codec(self.vision_tokenizer)
        self.check(codec)
        return DatasetSettings(
            codec,
            unit_rows=self.unit_rows,
            preprocessing=self.preprocessing.to_json(codec),
            clips=self.sampling.to_json() if codec.supports_video else None,
        )

    def check(self, codec: Codec) -> None:
        """Raise UsageError, naming the command-line option, for settings that do not suit the codec."""
        self.preprocessing.step(codec)
        self.sampling.check(codec)

    def for_workers(self) -> EncodeOptions:
        """Return the options with absolute paths, for processes with another working directory."""
        return replace(
            self,
            source=absolute(self.source),
            image_root=absolute(self.image_root) if self.image_root is not None else None,
            dataset=absolute(self.dataset),
            vision_tokenizer=absolute(self.vision_tokenizer),
        )

    def images_per_batch(self, height: int, width: int) -> int:
        """Return the number of images of this size, in pixels, that every batch is filled up to."""
        return max(1, min(self.batch_pixels // (height * width), self.unit_rows))


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """Settings of a repair; all others are recorded in the dataset. Without a source nothing is encoded."""

    dataset: str
    source: str | None = None
    vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
    device: str = "auto"


def _check_retried(reason: str) -> None:
    """Raises UsageError for a reason that does not exist or cannot be retried."""
    if reason in NOT_RETRIED:
        raise UsageError(
            f"--retry-quarantined {reason}: the cause is in the source itself; fix the source and encode again"
        )
    if reason not in ENCODE_REASONS:
        expected = ", ".join(sorted(set(ENCODE_REASONS) - set(NOT_RETRIED)))
        raise UsageError(f"--retry-quarantined {reason}: expected one of {expected}")
