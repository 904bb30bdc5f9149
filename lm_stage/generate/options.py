"""Options of a generation job."""

from __future__ import annotations

from dataclasses import dataclass

from lm_stage.generate.prompts import PromptDefaults
from lm_stage.inference.options import InferenceOptions, check_window
from lm_stage.model.config import read_config
from shared.codec import Codec
from shared.errors import CheckpointError, UsageError

PUBLISHED_AREA = 720 * 720  # pixels of the images that Emu3-Gen was trained on
MAX_GUIDANCE_SCALE = 1000
RESUME_MODES = ("replay", "prefill")


@dataclass(frozen=True, slots=True)
class GenerateOptions(InferenceOptions):
    """What to generate from which prompts, and where to write it.

    `images` is the dataset of the images and videos that prompts refer to. `area`, `height` and `width` are in pixels,
    `ratio` is width:height. `frames` asks for videos of this many frames of codes, for Emu3 each of four video frames;
    0 asks for images. `codec` is that of the vision tokenizer whose codes the model generates, for a checkpoint that
    does not record it. `unit_rows` images are committed together, and every `journal_rows` rows of codes are
    journaled. `resume` is how journaled codes enter the KV cache: `replay` decodes them step by step and continues with
    the codes of an unbroken run; `prefill` is faster, but rounding can change a choice between close candidates.
    `window` tokens of each sequence go through one forward.
    """

    prompts: str
    dataset: str
    images: str | None = None
    ratio: str = "1:1"
    area: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int = 0
    suffix: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 3.0
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
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise UsageError(
                f"--guidance-scale {self.guidance_scale}: expected a number from 0 to {MAX_GUIDANCE_SCALE}; 1 means no"
                " guidance"
            )

    def defaults(self, codec: Codec) -> PromptDefaults:
        """Return the settings of prompts that do not have their own; `codec` and the default area are the model's.

        Raises UsageError for settings that describe no image, CheckpointError for a bad area in `config.json`.
        """
        area = read_config(self.model).get("image_area", PUBLISHED_AREA) if self.area is None else self.area
        if not isinstance(area, int):
            raise CheckpointError(f"{self.model}: config.json: image_area {area!r}: expected an integer (pixels)")
        return PromptDefaults(
            area=area,
            ratio=self.ratio,
            height=self.height,
            width=self.width,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            samples=self.samples,
            is_size_given=bool(self.area or self.height or self.ratio != "1:1"),
            frames=self.frames,
            codec=codec,
        )
