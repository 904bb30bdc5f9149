"""Settings of an encode job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.codec import Codec
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.jobs.engines import EngineOptions
from shared.storage.paths import absolute
from vq_stage.encode.planner import DUPLICATES, Planner, PlanOptions
from vq_stage.media.resizing import Preprocessing
from vq_stage.model.config import VQConfig
from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint
from vq_stage.sources.open_source import open_source
from vq_stage.video.clips import ClipSampling


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Settings of an encode job. `batch_pixels` bounds a batch; `quality_samples` are decoded again a unit.

    `retry_quarantined` are reasons of refused inputs to try again; `duplicates` once encodes equal files once.
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
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"
    allow_numerics_change: bool = False
    max_refused_in_a_row: int = 1000
    duplicates: str = "keep"
    retry_quarantined: tuple[str, ...] = ()
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        for name in ("unit_rows", "batch_pixels", "reader_threads", "max_refused_in_a_row"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.quality_samples < 0:
            raise UsageError(f"--quality-samples {self.quality_samples}: expected at least 0")
        if self.duplicates not in DUPLICATES:
            raise UsageError(f"--duplicates {self.duplicates}: expected one of {', '.join(DUPLICATES)}")

    def recorded(self) -> DatasetSettings:
        """The settings that decide the codes, with the tokenizer's fingerprint; needs no MindSpore."""
        config = VQConfig.from_directory(self.vision_tokenizer)
        codec = Codec(
            codec_fingerprint(self.vision_tokenizer),
            config.codebook_size,
            config.spatial_factor,
            config.temporal_downsample_factor,
        )
        return DatasetSettings(
            codec,
            unit_rows=self.unit_rows,
            preprocessing=self.preprocessing.recorded(),
            clips=self.sampling.to_json(),
        )

    def for_workers(self) -> EncodeOptions:
        """The same job, told to processes that may have been started elsewhere."""
        return replace(
            self,
            source=absolute(self.source),
            dataset=absolute(self.dataset),
            vision_tokenizer=absolute(self.vision_tokenizer),
        )

    def planner(self) -> Planner:
        """Plans the source of this job."""
        cut = PlanOptions(self.unit_rows, self.reader_threads, self.max_refused_in_a_row, self.duplicates)
        return Planner(open_source(self.source), self.preprocessing, self.sampling, cut)
