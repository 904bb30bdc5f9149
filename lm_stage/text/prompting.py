"""How a model family is prompted, as data: templates, the form of images, and the settings published for sampling.

| plain | BOS caption BOI H*W IMG body EOS                                                                             |
| emu3  | the same, with the published suffix after the caption and the published negative prompt                      |
| emu35 | BOS You are a helpful assistant for t2i task. USER: caption ASSISTANT: BSS BOI H*W IMG body ESS EOS          |

The spaces around `ASSISTANT:` are part of Emu3.5's text; without an image and a text, two follow `USER:`. Its other
tasks have their own system prompt.
Sources: Emu3, `processing_emu3.py`; Emu3.5, `configs/` (baaivision/Emu3.5 at 8fcf1da).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lm_stage.text.templates import BARE, CHAT, GRID_HEADER, STAGE1, ConversationTemplate
from shared.errors import CheckpointError, UsageError
from shared.tokens.grid_formats import EMU35_IMAGE, IMAGE, UNIVLA, GridFormat
from shared.tokens.layout import OPTIONAL_SURFACES, TokenLayout
from shared.tokens.sequence_form import SequenceForm

AUTO = "auto"
IMAGE_TASK = "image"  # a single image or video, without text


@dataclass(frozen=True, slots=True)
class PublishedSampling:
    """The candidates that upstream samples tokens of one type from, at temperature 1; a `top_k` of 0 is no limit."""

    top_k: int
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompting:
    """What surrounds texts, images and answers in sequences of a model family, and how upstream samples from it.

    `draw` is the template of an image from a text, `edit` of one from images and a text, `unconditional` of the stream
    that guidance steers away from: its text is the negative prompt, and it repeats the images of the prompt with
    `repeats_images`. `other_tasks` and `other_questions` are the templates besides `chat` of answers that mix text and
    images, and of questions about images. `roles` are the optional roles of control tokens that the family uses;
    `answer_begin` and `answer_end` are those around an answer, in their order. With `writes_size`, the size of an image
    is part of the answer in training; otherwise it is part of the prompt.
    `area` is in pixels; `sizes` are published grids, in codes, by the ratio width:height, for that area and for codecs
    whose codes have `sizes_factor` pixels a side. Text-to-image and image editing have settings of their own, which
    differ from those of interleaved answers.
    """

    name: str
    text_to_image: ConversationTemplate = BARE
    image_editing: ConversationTemplate = BARE
    unconditional: ConversationTemplate = BARE
    repeats_images: bool = False
    chat: ConversationTemplate = CHAT
    other_tasks: tuple[ConversationTemplate, ...] = ()
    other_questions: tuple[ConversationTemplate, ...] = (STAGE1,)
    roles: tuple[str, ...] = ()
    answer_begin: tuple[str, ...] = ()
    answer_end: tuple[str, ...] = ("eos",)
    writes_size: bool = False
    image_format: GridFormat = IMAGE
    suffix: str = ""
    negative_prompt: str = ""
    text_to_image_guidance: float = 3.0
    image_editing_guidance: float = 3.0
    codes: PublishedSampling = PublishedSampling(2048)
    interleaved_codes: PublishedSampling = PublishedSampling(2048)
    text: PublishedSampling = PublishedSampling(2048)
    area: int = 720 * 720
    interleaved_area: int = 720 * 720
    sizes: tuple[tuple[str, tuple[int, int]], ...] = ()
    sizes_factor: int = 16
    recorded: str = "text-to-image"  # in the settings of generated datasets

    @property
    def tasks(self) -> dict[str, ConversationTemplate]:
        """The templates of answers that mix text and images, by name."""
        return {"chat": self.chat, **{template.name: template for template in self.other_tasks}}

    @property
    def question_templates(self) -> dict[str, ConversationTemplate]:
        """The templates of questions about images, whose answers are text, by name."""
        return {"chat": self.chat, **{template.name: template for template in self.other_questions}}

    @property
    def text_to_image_form(self) -> SequenceForm:
        """The form of a training sequence of a caption and its image or video, without the suffix of prompts."""
        around = 1 + len(self.answer_begin) + len(self.answer_end) + sum(role != "size" for role in GRID_HEADER)
        template = self.text_to_image.question_text("")
        return SequenceForm(self.image_format, UNIVLA, around, template)

    def is_interleaved(self, task: ConversationTemplate) -> bool:
        """Whether answers to a task mix text and images, rather than consist of an image above all."""
        return task not in (self.text_to_image, self.image_editing)

    def task(self, name: str) -> ConversationTemplate:
        """Return the template of a task. Raises UsageError if the family has none of this name."""
        if name not in self.tasks:
            expected = ", ".join((IMAGE_TASK, *self.tasks))
            raise UsageError(f"--task {name}: expected one of {expected} with --prompting {self.name}")
        return self.tasks[name]

    def question_template(self, name: str) -> ConversationTemplate:
        """Return the template of questions about images. Raises UsageError if the family has none of this name."""
        if name not in self.question_templates:
            expected = ", ".join(self.question_templates)
            raise UsageError(f"--template {name}: expected one of {expected} with --prompting {self.name}")
        return self.question_templates[name]

    def missing_roles(self, layout: TokenLayout) -> list[str]:
        """Return the roles of control tokens around answers that a layout lacks."""
        return [role for role in (*self.answer_begin, *self.answer_end) if getattr(layout, role) is None]

    def check_roles(self, layout: TokenLayout, where: object) -> None:
        """Raise CheckpointError if a layout lacks control tokens around answers."""
        if missing := self.missing_roles(layout):
            tokens = ", ".join(f"{role} ({OPTIONAL_SURFACES[role]})" for role in missing)
            raise CheckpointError(
                f"{where}: --prompting {self.name} needs {tokens}, which neither the token layout nor the text"
                " vocabulary has; choose another --prompting"
            )


def _task(name: str, images_first: bool = False) -> ConversationTemplate:
    """Return Emu3.5's template of a task."""
    system = f"You are a helpful assistant for {name} task."
    return ConversationTemplate(name, system, " USER: ", " ASSISTANT: ", images_first)


PLAIN = Prompting("plain")
EMU3 = replace(
    PLAIN,
    name="emu3",
    suffix=" masterpiece, film grained, best quality.",
    negative_prompt=(
        "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst"
        " quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
    ),
)
# Upstream published no template of questions for Emu3.5: that of the unconditional stream is our choice.
_EMU35_CHAT = ConversationTemplate("emu3.5 chat", "You are a helpful assistant.", " USER: ", " ASSISTANT: ")
_EMU35_T2I, _EMU35_X2I = _task("t2i"), _task("x2i", images_first=True)
_EMU35_GRIDS = {"1:1": (64, 64), "4:3": (55, 73), "21:9": (41, 97), "16:9": (47, 85), "3:2": (52, 78)}
EMU35 = Prompting(
    "emu35",
    text_to_image=_EMU35_T2I,
    image_editing=_EMU35_X2I,
    unconditional=_EMU35_CHAT,
    repeats_images=True,
    chat=_EMU35_CHAT,
    other_tasks=(_EMU35_T2I, _EMU35_X2I, *map(_task, ("story", "howto", "explore", "vla"))),
    other_questions=(),
    roles=tuple(OPTIONAL_SURFACES),
    answer_begin=("bss",),
    answer_end=("ess", "eos"),
    writes_size=True,
    image_format=EMU35_IMAGE,
    text_to_image_guidance=5.0,
    image_editing_guidance=3.0,
    codes=PublishedSampling(5120),
    interleaved_codes=PublishedSampling(10240),
    text=PublishedSampling(1024, 0.9),
    area=1024 * 1024,
    interleaved_area=518_400,
    sizes=(
        *_EMU35_GRIDS.items(),
        *((":".join(reversed(ratio.split(":"))), size[::-1]) for ratio, size in _EMU35_GRIDS.items() if ratio != "1:1"),
    ),
    recorded="emu3.5",
)
PROMPTINGS = {prompting.name: prompting for prompting in (PLAIN, EMU3, EMU35)}
CHOICES = (AUTO, *PROMPTINGS)
FAMILIES = tuple(name for name in PROMPTINGS if name != PLAIN.name)  # plain is Emu3's form, without its suffix
TASKS = (IMAGE_TASK, *dict.fromkeys(name for prompting in PROMPTINGS.values() for name in prompting.tasks))
QUESTION_TEMPLATES = tuple(
    dict.fromkeys(name for prompting in PROMPTINGS.values() for name in prompting.question_templates)
)


def check_prompting(name: str) -> None:
    """Raise UsageError unless this is the name of a prompting, or auto."""
    if name not in CHOICES:
        raise UsageError(f"--prompting {name!r}: expected one of {', '.join(CHOICES)}")
