"""Options of a generation job."""

from __future__ import annotations

from dataclasses import dataclass, field

from lm_stage.inference.options import InferenceOptions, SamplingOptions, check_sampling, check_window
from lm_stage.text.prompting import IMAGE_TASK, TASKS, Prompting
from lm_stage.text.templates import ConversationTemplate
from shared.codec import Codec
from shared.errors import UsageError

MAX_GUIDANCE_SCALE = 1000
RESUME_MODES = ("replay", "prefill")


@dataclass(frozen=True, slots=True)
class TextSampling:
    """How text within answers is sampled; None is what upstream published. Raises UsageError for what cannot work."""

    text_temperature: float = 1.0
    text_top_k: int | None = None
    text_top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(self.text_temperature, self.text_top_k, self.text_top_p, prefix="text-")

    def options(self, greedy: bool) -> SamplingOptions:
        return SamplingOptions(self.text_temperature, self.text_top_k, self.text_top_p, greedy)


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """Given settings, and what upstream published for a prompting where nothing is given."""

    suffix: str
    negative_prompt: str
    guidance_scale: float
    sampling: SamplingOptions
    text_sampling: SamplingOptions

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale != 1.0


@dataclass(frozen=True, slots=True)
class GenerateOptions(InferenceOptions):
    """What to generate from which prompts, and where to write it.

    `images` is the dataset of the images and videos that prompts refer to. `area`, `height` and `width` are in pixels,
    `ratio` is width:height, 1:1 if it is None. `frames` asks for videos of this many frames of codes, for Emu3 each of
    four video frames; 0 asks for images. `codec` is that of the vision tokenizer whose codes the model generates, for a
    checkpoint that does not record it. `unit_rows` images are committed together, and every `journal_rows` rows of
    codes are journaled. `resume` is how journaled codes enter the KV cache: `replay` decodes them step by step and
    continues with the codes of an unbroken run; `prefill` is faster, but rounding can change a choice between close
    candidates. `window` tokens of each sequence go through one forward. `suffix`, `negative_prompt` and
    `guidance_scale` are those published for the prompting if they are None.

    `task` is `image`, or the name of a task whose answers mix text and images; such an answer has at most
    `max_new_tokens`, by default as many as the model has positions for, and its text is sampled by `text_sampling`.
    """

    prompts: str
    dataset: str
    images: str | None = None
    ratio: str | None = None
    area: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int = 0
    task: str = IMAGE_TASK
    max_new_tokens: int | None = None
    text_sampling: TextSampling = field(default_factory=TextSampling)
    suffix: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    samples: int = 1
    codec: Codec | None = None
    unit_rows: int = 64
    journal_rows: int = 4
    resume: str = "replay"
    window: int = 1
    allow_numerics_change: bool = False

    def __post_init__(self) -> None:
        InferenceOptions.__post_init__(self)
        self.check_positive("unit_rows", "journal_rows")
        check_window(self.window, self.backend)
        if self.resume not in RESUME_MODES:
            raise UsageError(f"--resume {self.resume}: expected one of {', '.join(RESUME_MODES)}")
        self._check_answers()
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise UsageError(
                f"--guidance-scale {self.guidance_scale}: expected a number from 0 to {MAX_GUIDANCE_SCALE}; 1 means no"
                " guidance"
            )

    @property
    def makes_answers(self) -> bool:
        return self.task != IMAGE_TASK

    def _check_answers(self) -> None:
        """Raise UsageError for options that images, or answers, do not have."""
        if self.task not in TASKS:
            raise UsageError(f"--task {self.task}: expected one of {', '.join(TASKS)}")
        if not self.makes_answers and (self.max_new_tokens is not None or self.text_sampling != TextSampling()):
            raise UsageError(
                "--max-new-tokens, --text-temperature, --text-top-k, --text-top-p: expected with --task only"
            )
        if self.max_new_tokens is not None:
            self.check_positive("max_new_tokens")
        if self.makes_answers and (self.frames or self.window > 1):
            raise UsageError(f"--task {self.task}: expected neither --frames nor --window, which answers do not have")

    def template(self, prompting: Prompting) -> ConversationTemplate | None:
        """Return the template of answers, None for images. Raises UsageError if the prompting has no such task."""
        return prompting.task(self.task) if self.makes_answers else None

    def prompt_settings(self, prompting: Prompting) -> PromptSettings:
        """Return the settings that depend on the prompting."""
        text_to_image, image_editing = prompting.text_to_image, prompting.image_editing
        task = self.template(prompting) or (text_to_image if self.images is None else image_editing)
        is_text_to_image = task == text_to_image
        guidance = prompting.text_to_image_guidance if is_text_to_image else prompting.image_editing_guidance
        codes = prompting.interleaved_codes if prompting.is_interleaved(task) else prompting.codes
        return PromptSettings(
            suffix=prompting.suffix if self.suffix is None else self.suffix,
            negative_prompt=prompting.negative_prompt if self.negative_prompt is None else self.negative_prompt,
            guidance_scale=guidance if self.guidance_scale is None else self.guidance_scale,
            sampling=self.sampling.resolved(codes),
            text_sampling=self.text_sampling.options(self.sampling.greedy).resolved(prompting.text),
        )
