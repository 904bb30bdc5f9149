"""Whose codes flow where in a pipeline, told before it starts: by fingerprint, of what is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from lm_stage.config import read_config
from lm_stage.source import EMBEDDED_MODEL
from pipelines.step import Step
from shared.dataset import Dataset
from shared.errors import RelayError
from shared.storage import as_path
from vq_stage.weights import EMBEDDED_TOKENIZER, codec_fingerprint

LANGUAGE_STEPS = {"sft", "generate", "understand"}


def codec_problems(steps: Sequence[Step], made_by: Callable[[str], str | None]) -> list[str]:
    """Codes of one vision tokenizer that would be decoded, or trained on, with those of another.

    `steps` are in the order they run in; `made_by` names the step that writes a place, if one does.
    """
    problems: list[str] = []
    codecs: dict[str, dict[str, str]] = {}  # by step: fingerprints and whence they are known
    for step in steps:
        found = {codec: whence for name in step.needs for codec, whence in codecs.get(name, {}).items()}
        try:
            found |= {codec: whence for whence, codec in _own(step, made_by) if codec}
        except RelayError as error:
            problems.append(f"step {step.name}: {error}")
        if len(found) > 1:
            known = ", ".join(f"{codec[:12]} of {whence}" for codec, whence in sorted(found.items()))
            problems.append(f"step {step.name}: codes of two vision tokenizers come together: {known}")
        codecs[step.name] = dict(list(found.items())[:1])
    return problems


def _own(step: Step, made_by: Callable[[str], str | None]) -> Iterator[tuple[str, str | None]]:
    """Where a step meets codes besides the steps it needs, and whose those are, None if nobody knows."""
    tokenizer = _option(step, "--vision-tokenizer")
    if tokenizer is None and step.command in ("encode", "decode", "inspect"):
        tokenizer = str(EMBEDDED_TOKENIZER)
    if tokenizer is not None:
        yield tokenizer, f"(step {maker})" if (maker := made_by(tokenizer)) else _of_tokenizer(tokenizer)
    places = [text for text in step.inputs if text not in ("-", tokenizer) and not made_by(text)]
    if step.command in LANGUAGE_STEPS and _option(step, "--model") is None:
        places.append(str(EMBEDDED_MODEL))
    for text in places:
        if (as_path(text) / "plan.arrow").exists():
            yield text, Dataset.open(text).plan().settings["codec"].get("fingerprint")
        elif step.command in LANGUAGE_STEPS and (as_path(text) / "config.json").exists():
            yield text, read_config(text).get("codec_fingerprint")


def _option(step: Step, name: str) -> str | None:
    return step.arguments[step.arguments.index(name) + 1] if name in step.arguments else None


@cache
def _of_tokenizer(directory: str) -> str:
    return codec_fingerprint(directory)
