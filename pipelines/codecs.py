"""Whose codes meet in a step of a pipeline, told before it starts: by fingerprint, of what is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from lm_stage.source import EMBEDDED_MODEL
from pipelines.step import Step
from shared.dataset import Dataset
from shared.errors import DatasetError, RelayError
from shared.storage import as_path
from vq_stage.sources.files import refusing_unreadable
from vq_stage.weights import EMBEDDED_TOKENIZER, codec_fingerprint

CARRIERS = ("dataset", "datasets", "held_out", "images", "model")  # options by which codes come, or a model of them
PASSING_ON = ("encode", "generate", "init-lm", "sft")  # commands that write codes, or a model of them


def codec_problems(steps: Sequence[Step], made_by: Callable[[str], str | None]) -> list[str]:
    """Codes of one vision tokenizer that would be decoded, or trained on, with those of another.

    `steps` are in the order they run in; `made_by` names the step that writes a place, if one does. A tokenizer that
    a step makes is only compared with others that steps make: what it will be nobody knows.
    """
    problems: list[str] = []
    passed_on: dict[str, str] = {}
    codec_of = cache(_codec_of)
    for step in steps:
        met: dict[str, str] = {}
        try:
            for place, codec in _met(step, made_by, passed_on, codec_of):
                if codec:
                    met.setdefault(codec, place)
        except RelayError as error:
            problems.append(f"step {step.name}: {error}")
        for kind in (True, False):
            alike = [codec for codec in met if codec.startswith("step ") is kind]
            if len(alike) > 1:
                known = ", ".join(f"{codec if kind else codec[:12]} of {met[codec]}" for codec in alike)
                problems.append(f"step {step.name}: codes of two vision tokenizers come together: {known}")
        if met and step.command in PASSING_ON:
            passed_on[step.name] = next(iter(met))
    return problems


def _met(
    step: Step,
    made_by: Callable[[str], str | None],
    passed_on: Mapping[str, str],
    codec_of: Callable[[str], str | None],
) -> Iterator[tuple[str, str | None]]:
    """Every place by which a step meets codes, and whose those are, None if nobody knows."""
    tokenizer, model = step.place("vision_tokenizer"), step.place("model")
    if tokenizer is None and step.command in ("encode", "decode", "inspect"):
        tokenizer = str(EMBEDDED_TOKENIZER)
    if tokenizer is not None:
        maker = made_by(tokenizer)
        yield tokenizer, f"step {maker}" if maker else codec_fingerprint(tokenizer)
    if model is None and step.command in ("sft", "generate", "understand"):
        yield str(EMBEDDED_MODEL), codec_of(str(EMBEDDED_MODEL))
    for option, place in step.inputs:
        if option in CARRIERS:
            yield place, passed_on.get(maker) if (maker := made_by(place)) else codec_of(place)


def _codec_of(place: str) -> str | None:
    """The fingerprint that a dataset or a language model carries. Raises RelayError."""
    path = as_path(place)
    with refusing_unreadable():
        if (path / "plan.arrow").exists():
            found = Dataset.open(place).plan().settings["codec"].get("fingerprint")
        elif (path / "config.json").exists():
            found = json.loads((path / "config.json").read_text(encoding="utf-8")).get("codec_fingerprint")
        else:
            return None
    if not isinstance(found, str | None):
        raise DatasetError(f"{place}: codec fingerprint {found!r}: expected hex digits")
    return found
