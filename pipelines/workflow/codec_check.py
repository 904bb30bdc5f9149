"""Whose codes meet in a step of a pipeline, told before it starts: by fingerprint, of what is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from lm_stage.model.model_directory import EMBEDDED_MODEL
from pipelines.workflow.codec import carried_codec
from pipelines.workflow.step import Step
from shared.errors import RelayError
from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint

CARRIERS = ("dataset", "datasets", "held_out", "images", "model")  # options by which codes come, or a model of them
PASSING_ON = ("encode", "generate", "init-lm", "sft")  # commands that write codes, or a model of them


class CodecCheck:
    """Finds steps that would decode, or train on, codes of one vision tokenizer with those of another.

    Steps are to be given in the order they run in; `made_by` names the step that writes a place, if one does. A
    tokenizer that a step makes is only compared with others that steps make: what it will be nobody knows.
    """

    def __init__(self, made_by: Callable[[str], str | None]):
        self.made_by = made_by
        self.passed_on: dict[str, str] = {}  # by step
        self.carried, self.fingerprint = cache(carried_codec), cache(codec_fingerprint)

    def problems(self, step: Step) -> Iterator[str]:
        met: dict[str, str] = {}
        try:
            for place, codec in self._met(step):
                if codec:
                    met.setdefault(codec, place)
        except RelayError as error:
            yield f"step {step.name}: {error}"
        for is_made in (True, False):
            alike = [codec for codec in met if codec.startswith("step ") is is_made]
            if len(alike) > 1:
                known = ", ".join(f"{codec if is_made else codec[:12]} of {met[codec]}" for codec in alike)
                yield f"step {step.name}: codes of two vision tokenizers come together: {known}"
        if met and step.command in PASSING_ON:
            self.passed_on[step.name] = next(iter(met))

    def _met(self, step: Step) -> Iterator[tuple[str, str | None]]:
        """Every place by which a step meets codes, and whose those are, None if nobody knows."""
        tokenizer = step.place("vision_tokenizer")
        if tokenizer is None and step.command in ("encode", "decode", "inspect"):
            tokenizer = str(EMBEDDED_TOKENIZER)
        if tokenizer is not None:
            maker = self.made_by(tokenizer)
            yield tokenizer, f"step {maker}" if maker else self.fingerprint(tokenizer)
        if step.place("model") is None and step.command in ("sft", "generate", "understand"):
            yield str(EMBEDDED_MODEL), self.carried(str(EMBEDDED_MODEL))
        for option, place in step.inputs:
            if option in CARRIERS:
                maker = self.made_by(place)
                yield place, self.passed_on.get(maker) if maker else self.carried(place)
