"""Reads prompts from a text file, a JSON file or the captions of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_stage.generate.prompts import Prompt, PromptDefaults, parse_prompt, parse_samples
from lm_stage.text.entry_files import entry_fields, json_entries, parse_key, text_entries
from shared.dataset.columns import ANSWER_KIND
from shared.dataset.dataset import Dataset
from shared.dataset.quarantine_reasons import DUPLICATE_KEY
from shared.dataset.readers import KeyReader
from shared.errors import RefusedInput, UsageError
from shared.storage.json_values import JsonValue
from shared.storage.paths import as_path

MAX_PROMPTS = 1_000_000  # of a file, samples included


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """One prompt as its source contains it, not yet validated.

    `key` and `uri` identify it within the source; its fields may contain another key. `caption` is the text in the plan
    if the prompt is refused.
    """

    key: str
    uri: str
    entry: JsonValue
    caption: str = ""


def list_prompts(source: str | Path, defaults: PromptDefaults) -> list[Prompt]:
    """Return all prompts of a `.txt`, `.json` or `.jsonl` file or of a dataset, in order.

    Samples of one prompt follow each other. A bad entry becomes a prompt with a refusal. Raises UsageError if the
    source cannot be read or has no prompts.
    """
    path = as_path(source)
    try:
        is_dataset = (path / "plan.arrow").is_file()
        entries = _dataset_entries(Dataset.open(path), defaults) if is_dataset else _file_entries(path)
        prompts = _listed(path, entries, defaults, None if is_dataset else MAX_PROMPTS)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as prompts: {error}") from error
    if not prompts:
        raise UsageError(f"{path}: contains no prompts")
    return list(_refuse_duplicates(prompts))


def _listed(
    path: Path, entries: Iterator[PromptEntry], defaults: PromptDefaults, max_prompts: int | None
) -> list[Prompt]:
    prompts: list[Prompt] = []
    for entry in entries:
        prompts += _prompts(entry, defaults)
        if max_prompts and len(prompts) > max_prompts:
            raise UsageError(f"{path}: more than {max_prompts} prompts, with their samples; divide the file")
    return prompts


def _file_entries(path: Path) -> Iterator[PromptEntry]:
    readers = {".txt": text_entries, ".jsonl": json_entries, ".json": json_entries}
    if (reader := readers.get(path.suffix.lower())) is None:
        raise UsageError(f"{path}: expected prompts as .txt, .json or .jsonl, or a dataset of codes (plan.arrow)")
    for entry in reader(path):
        if isinstance(entry.value, str):
            entry = replace(entry, value={"prompt": entry.value})
        yield PromptEntry(f"{entry.number:06d}", f"{path.name}#{entry.number}", entry)


def _dataset_entries(dataset: Dataset, defaults: PromptDefaults) -> Iterator[PromptEntry]:
    """Yield the captions, with the sizes of images and videos unless the defaults have a size of their own."""
    index, factor = KeyReader(dataset), dataset.plan().settings.codec.spatial_factor
    for key in index:
        row = index.row(key)
        fields: dict[str, Any] = {"prompt": row.text}
        if row.kind != ANSWER_KIND and not defaults.is_size_given:
            fields |= {name: size * factor for name, size in zip(("height", "width"), row.codes_THW.shape[1:])}
        if row.kind == "video":
            fields |= {"frames": defaults.frames or len(row.codes_THW), "fps": row.fps}
        yield PromptEntry(key, f"{dataset.root.name}#{key}", JsonValue(0, "", fields), row.text or "")


def _prompts(entry: PromptEntry, defaults: PromptDefaults) -> Iterator[Prompt]:
    """Yield every sample of an entry, or one refused prompt."""
    key, where = entry.key, entry.entry.where
    try:
        fields = entry_fields(entry.entry)
        key = parse_key(fields.get("key", fields.get("name", key)))
        prompt = parse_prompt(key, entry.uri, fields, defaults)
        samples = parse_samples(fields.get("samples", defaults.samples))
    except RefusedInput as refusal:
        detail = f"{where}: {refusal.detail}" if where else refusal.detail
        yield Prompt(key, entry.uri, entry.caption, refusal=(refusal.reason, detail))
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
