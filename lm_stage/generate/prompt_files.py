"""Reads prompts from a text file, a JSON file or the captions of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_stage.generate.prompts import Prompt, PromptDefaults, parse_key, parse_prompt, parse_samples
from shared.codec import SPATIAL_FACTOR
from shared.dataset.dataset import Dataset
from shared.dataset.quarantine_reasons import DUPLICATE_KEY
from shared.dataset.readers import KeyReader
from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """One prompt as its source contains it, not yet validated.

    `key` and `uri` identify it within the source; `fields` may contain another key. `caption` is the text in the plan
    if the prompt is refused.
    """

    key: str
    uri: str
    fields: Any
    caption: str = ""


def list_prompts(source: str | Path, defaults: PromptDefaults) -> list[Prompt]:
    """Return all prompts of a `.txt`, `.json` or `.jsonl` file or of a dataset, in order.

    Samples of one prompt follow each other. A bad entry becomes a prompt with a refusal. Raises UsageError if the
    source cannot be read or has no prompts.
    """
    path = as_path(source)
    try:
        prompts = [prompt for entry in _entries(path, defaults) for prompt in _prompts(entry, defaults)]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as prompts: {error}") from error
    if not prompts:
        raise UsageError(f"{path}: contains no prompts")
    return list(_refuse_duplicates(prompts))


def _entries(path: Path, defaults: PromptDefaults) -> Iterator[PromptEntry]:
    if (path / "plan.arrow").is_file():
        return _dataset_entries(Dataset.open(path), defaults)
    if path.suffix == ".txt":
        return _file_entries(path, ((number, line.strip()) for number, line in _lines(path)))
    if path.suffix == ".jsonl":
        return _file_entries(path, ((number, json.loads(line)) for number, line in _lines(path)))
    if path.suffix == ".json":
        return _file_entries(path, enumerate(_json_list(path), 1))
    raise UsageError(f"{path}: expected prompts as .txt, .json or .jsonl, or a dataset of codes")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines with their numbers; other separators such as U+2028 are part of a line."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _json_list(path: Path) -> list[Any]:
    values = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(values, list):
        raise ValueError(f"expected a list of prompts, got {type(values).__name__}")
    return values


def _file_entries(path: Path, values: Iterable[tuple[int, Any]]) -> Iterator[PromptEntry]:
    for number, value in values:
        fields = {"prompt": value} if isinstance(value, str) else value
        yield PromptEntry(f"{number:06d}", f"{path.name}#{number}", fields)


def _dataset_entries(dataset: Dataset, defaults: PromptDefaults) -> Iterator[PromptEntry]:
    """Yield the captions, with the size of their rows unless the defaults have a size of their own."""
    index = KeyReader(dataset)
    for key in index:
        row = index.row(key)
        fields: dict[str, Any] = {"prompt": row.text}
        if not defaults.is_size_given:
            fields |= {name: size * SPATIAL_FACTOR for name, size in zip(("height", "width"), row.codes_THW.shape[1:])}
        if row.kind == "video":
            fields |= {"frames": defaults.frames or len(row.codes_THW), "fps": row.fps}
        yield PromptEntry(key, f"{dataset.root.name}#{key}", fields, row.text or "")


def _prompts(entry: PromptEntry, defaults: PromptDefaults) -> Iterator[Prompt]:
    """Yield every sample of an entry, or one refused prompt."""
    key, fields = entry.key, entry.fields
    try:
        if not isinstance(fields, dict):
            raise RefusedInput("bad_entry", f"expected text or an object, got {type(fields).__name__}")
        key = parse_key(fields.get("key", fields.get("name", key)))
        prompt = parse_prompt(key, entry.uri, fields, defaults)
        samples = parse_samples(fields.get("samples", defaults.samples))
    except RefusedInput as refusal:
        yield Prompt(key, entry.uri, entry.caption, refusal=(refusal.reason, refusal.detail))
        return
    for index in range(samples):
        yield prompt if samples == 1 else replace(prompt, key=f"{key}-{index}")


def _refuse_duplicates(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    uri_by_key: dict[str, str] = {}
    for prompt in prompts:
        if prompt.key in uri_by_key:
            detail = f"key {prompt.key!r} is taken by {uri_by_key[prompt.key]}"
            prompt = replace(prompt, refusal=(DUPLICATE_KEY, detail))
        uri_by_key.setdefault(prompt.key, prompt.uri)
        yield prompt
