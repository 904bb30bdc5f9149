"""Options shared by the jobs that run the language model: `generate` and `understand`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from lm_stage.model.options import EMBEDDED_MODEL
from lm_stage.text.prompting import AUTO, PublishedSampling, check_prompting
from lm_stage.text.templates import video_format_named
from shared.errors import UsageError
from shared.jobs.engines import EngineOptions
from shared.mindone import check_backend
from shared.storage.paths import absolute
from shared.tokens.grid_formats import UNIVLA, GridFormat

INPUT_PATHS = ("model", "layout", "dataset", "images", "questions")
MIN_TEMPERATURE = 1e-6  # logits divided by less overflow
MAX_SEED = 2**63 - 1
MAX_WINDOW = 1024  # tokens of a row that one forward decodes; its logits are all in memory
Options = TypeVar("Options", bound="InferenceOptions")


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Temperature, then the `top_k` most likely tokens (0: all), then nucleus sampling by `top_p`; or greedy.

    None is what upstream published for the prompting of the model and the task; `resolved` fills it in, once, where the
    task is known. Generators take None as no limit. Raises UsageError for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)

    def resolved(self, published: PublishedSampling) -> SamplingOptions:
        """Fill in what is None."""
        top_k = published.top_k if self.top_k is None else self.top_k
        return replace(self, top_k=top_k, top_p=published.top_p if self.top_p is None else self.top_p)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None, prefix: str = "") -> None:
    """Raise UsageError for a value out of range, naming its flag, which begins with `--` and `prefix`."""
    if not MIN_TEMPERATURE <= temperature < float("inf"):
        raise UsageError(
            f"--{prefix}temperature {temperature}: expected a number of at least {MIN_TEMPERATURE}; use --greedy"
            " instead of 0"
        )
    if top_k is not None and top_k < 0:
        raise UsageError(f"--{prefix}top-k {top_k}: expected at least 0 (0: no limit)")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"--{prefix}top-p {top_p}: expected a number in (0, 1]")


def check_window(window: int, backend: str = "native") -> None:
    """Raise UsageError for a window that is out of range, or that the backend does not have."""
    if not 1 <= window <= MAX_WINDOW:
        raise UsageError(f"--window {window}: expected an integer from 1 to {MAX_WINDOW}")
    if window > 1 and backend != "native":
        raise UsageError(f"--window {window} with --backend {backend}: it decodes one token at a time; omit --window")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """The model, how to sample from it, and which processes and devices run it.

    `layout` is a JSON file of token ids by name, for a checkpoint that does not have them. `batch_size` is the number
    of sequences generated at the same time. `kernels` is auto, or plain for the CPU's kernels on any device.
    `prompting` is the name of a prompting, or auto for that of the model.
    """

    model: str = str(EMBEDDED_MODEL)
    layout: str | None = None
    prompting: str = AUTO
    video_template: str = UNIVLA.name
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    batch_size: int = 8
    device: str = "auto"
    dtype: str | None = None
    kernels: str = "auto"
    backend: str = "native"
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        check_backend(self.backend, self.device, self.kernels)
        self.check_positive("batch_size")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed {self.seed}: expected an integer from 0 to {MAX_SEED}")
        video_format_named(self.video_template)
        check_prompting(self.prompting)

    @property
    def video_format(self) -> GridFormat:
        return video_format_named(self.video_template)

    def recorded_video_format(self, has_videos: bool, recorded: Mapping[str, Any]) -> GridFormat | None:
        """Return the format to record; None without videos, and if the first ones are added to what has none recorded.

        There it stands for the default, so that videos can be added to images; another format is refused as different.
        """
        is_implied = bool(recorded) and self.video_format == UNIVLA
        return self.video_format if "video_template" in recorded or (has_videos and not is_implied) else None

    def check_positive(self, *names: str) -> None:
        """Raise UsageError, naming the flag, for an option below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")

    def for_workers(self: Options) -> Options:
        """Return the options for processes that may run in another directory: the paths they read are absolute."""
        paths = {field.name: getattr(self, field.name) for field in fields(self) if field.name in INPUT_PATHS}
        changes: dict[str, Any] = {name: absolute(path) for name, path in paths.items() if path is not None}
        return replace(self, **changes)
