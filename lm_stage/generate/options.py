"""Settings of a generation job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lm_stage.generate.planner import PromptRenderer
from lm_stage.generate.prompts import PromptDefaults
from lm_stage.inference.sampling import SamplingOptions
from lm_stage.model.config import read_config
from lm_stage.model.model_directory import EMBEDDED_MODEL, ModelDirectory
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.templates import video_format_named
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.errors import CheckpointError, UsageError
from shared.jobs.engines import EngineOptions
from shared.storage.paths import absolute

PUBLISHED_AREA = 720 * 720


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Settings of a generation job. `batch_size` is the number of images or videos generated at the same time.

    `frames` asks for videos of so many frames of codes (four times as many of pixels); 0 asks for images.

    `codec` is the fingerprint of the vision tokenizer whose codes the model writes, if its checkpoint does not say.
    `resume` is how journaled codes of a half-written image are taken in: `replay` gives the codes of an unbroken run,
    `prefill` is faster and may differ where two candidates are near.
    """

    prompts: str
    dataset: str
    model: str = str(EMBEDDED_MODEL)
    images: str | None = None
    ratio: str = "1:1"
    area: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int = 0
    video_template: str = "univla"
    suffix: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 3.0
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    samples: int = 1
    codec: str | None = None
    layout: str | None = None
    unit_rows: int = 64
    batch_size: int = 8
    journal_rows: int = 4
    resume: str = "replay"
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"
    allow_numerics_change: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        for name in ("unit_rows", "batch_size", "journal_rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.resume not in ("replay", "prefill"):
            raise UsageError(f"--resume {self.resume}: expected replay or prefill")
        if not 0 <= self.guidance_scale < float("inf"):
            raise UsageError(f"--guidance-scale {self.guidance_scale}: expected a number from 0; 1 is no guidance")
        video_format_named(self.video_template)

    def for_workers(self) -> GenerateOptions:
        """The same job, told to processes that may have been started elsewhere."""
        return replace(
            self,
            dataset=absolute(self.dataset),
            model=absolute(self.model),
            images=self.images and absolute(self.images),
            layout=self.layout and absolute(self.layout),
        )

    def renderer(self, source: ModelDirectory) -> PromptRenderer:
        """Turns the prompts of this job to token ids."""
        images = KeyReader(Dataset.open(self.images)) if self.images else None
        templates = SequenceRenderer(source.text_tokenizer, source.layout, video_format_named(self.video_template))
        return PromptRenderer(templates, self.suffix, self.guidance_scale != 1.0, images)

    def defaults(self) -> PromptDefaults:
        """Of prompts that do not give their own; the area is the model's unless one is asked for."""
        area = self.area or read_config(self.model).get("image_area", PUBLISHED_AREA)
        if not isinstance(area, int):
            raise CheckpointError(f"{self.model}: config.json: image_area {area!r}: expected a whole number of pixels")
        return PromptDefaults(
            area,
            self.ratio,
            self.height,
            self.width,
            self.negative_prompt,
            self.seed,
            self.samples,
            is_size_given=bool(self.area or self.height or self.ratio != "1:1"),
            frames=self.frames,
        )
