"""Checks before a pipeline starts that no step mixes the codes of two vision tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from lm_stage.model.options import EMBEDDED_MODEL
from pipelines.workflow.step import Step
from shared.dataset.dataset import Dataset
from shared.errors import DatasetError, RelayError
from shared.storage.paths import as_path
from shared.storage.small_files import read_json_object
from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint
from vq_stage.sources.files import refusing_unreadable

CODE_INPUTS = ("dataset", "datasets", "held_out", "images", "model")  # options that give codes, or a model of codes
CODE_PRODUCERS = ("encode", "generate", "init-lm", "sft")  # commands that write codes, or a model of codes


class CodecCheck:
    """Finds steps that would decode, or train on, the codes of one vision tokenizer with those of another.

    Codecs are compared by fingerprint. The tokenizer that a step trains has none yet, so it is named "step NAME" and
    compared with other such tokenizers only. Check the steps in the order in which they run. `producer_of` names the
    step that writes a location, if one does.
    """

    def __init__(self, producer_of: Callable[[str], str | None]):
        self.producer_of = producer_of
        self.codec_of_step: dict[str, str] = {}
        self.recorded_codec, self.codec_fingerprint = cache(recorded_codec), cache(codec_fingerprint)

    def problems(self, step: Step) -> Iterator[str]:
        """Describe each mixture of codecs in a step, and each input whose codec cannot be read."""
        locations: dict[str, str] = {}
        try:
            for location, codec in self._codecs(step):
                if codec:
                    locations.setdefault(codec, location)
        except RelayError as error:
            yield f"step {step.name}: {error}"
        for is_trained_here in (True, False):
            codecs = [codec for codec in locations if codec.startswith("step ") is is_trained_here]
            if len(codecs) > 1:
                found = ", ".join(
                    f"{codec if is_trained_here else codec[:12]} of {locations[codec]}" for codec in codecs
                )
                yield f"step {step.name}: mixes the codes of two vision tokenizers: {found}"
        if locations and step.command in CODE_PRODUCERS:
            self.codec_of_step[step.name] = next(iter(locations))

    def _codecs(self, step: Step) -> Iterator[tuple[str, str | None]]:
        """Every location from which a step takes codes or a tokenizer, with its codec, None if that is unknown."""
        tokenizer = step.location("vision_tokenizer")
        if tokenizer is None and step.command in ("encode", "decode", "inspect"):
            tokenizer = str(EMBEDDED_TOKENIZER)
        if tokenizer is not None:
            producer = self.producer_of(tokenizer)
            yield tokenizer, f"step {producer}" if producer else self.codec_fingerprint(tokenizer)
        if step.location("model") is None and step.command in ("sft", "generate", "understand"):
            yield str(EMBEDDED_MODEL), self.recorded_codec(str(EMBEDDED_MODEL))
        for one in step.inputs:
            if one.option in CODE_INPUTS:
                producer = self.producer_of(one.location)
                codec = self.codec_of_step.get(producer) if producer else self.recorded_codec(one.location)
                yield one.location, codec


def recorded_codec(location: str) -> str | None:
    """The codec fingerprint recorded in a dataset or a language model; None if there is none.

    Raises RelayError if the location cannot be read.
    """
    path = as_path(location)
    with refusing_unreadable():
        if (path / "plan.arrow").exists():
            fingerprint = Dataset.open(location).plan().settings.codec.fingerprint
        elif (path / "config.json").exists():
            fingerprint = read_json_object(path / "config.json").get("codec_fingerprint")
        else:
            return None
    if not isinstance(fingerprint, str | None):
        raise DatasetError(f"{location}: codec fingerprint {fingerprint!r}: expected hexadecimal digits")
    return fingerprint
