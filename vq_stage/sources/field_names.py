"""Which fields hold what, in the entries of lists, the columns of tables, the JSON of tars and in metadata files.

Upper and lower case are the same. A new spelling needs one entry here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

# By preference: the first one with a value counts. `caption_0`, `caption_1`, … are spellings of `caption`.
CAPTION_NAMES = (
    *("text", "texts", "caption", "captions", "prompt", "prompts", "sentence", "sentences", "sentences_raw"),
    *("description", "raw_caption", "blip_caption", "re_caption", "recaption", "top_caption", "long_caption"),
    *("short_caption", "generated_caption", "llava_caption", "alt_text", "alttext"),
)
CONVERSATION_NAMES = ("conversations", "conversation", "messages")
ANNOTATION_NAMES = (*CAPTION_NAMES, *CONVERSATION_NAMES, "question", "answer")
IMAGE_NAMES = ("image", "images", "image_path", "image_file", "image_url", "img", "img_path", "picture", "photo")
VIDEO_NAMES = ("video", "videos", "video_path", "video_file", "video_url", "clip")
FILE_NAMES = ("file_name", "filename", "file", "file_path", "filepath", "path", "uri", "url")  # of either kind
CAPTION_FILE_SUFFIXES = (".txt", ".caption")

_NUMBER = re.compile(r"[ _-]?\d+$")


def fields_named(names: Iterable[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` that are spellings of `wanted`, by the preference of `wanted`."""
    return tuple(chain.from_iterable(fields_by_spelling(names, wanted)))


def fields_by_spelling(names: Iterable[str], wanted: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the same names as `fields_named`, grouped by their spelling: `caption_0` and `caption_1` are together."""
    return _fields_by_spelling(tuple(names), tuple(wanted))


@lru_cache(maxsize=1024)  # the entries of a list have the same fields
def _fields_by_spelling(names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for name in names:
        lower = name.strip().lower()
        without_number = _NUMBER.sub("", lower)
        spelling = without_number if without_number in CAPTION_NAMES else lower
        if spelling in found:
            found[spelling].append(name)
    return tuple(tuple(same) for same in found.values() if same)


def first_value(fields: Mapping[str, Any], wanted: Sequence[str]) -> Any:
    """Return the first value that is present, None if there is none."""
    for name in fields_named(fields, wanted):
        if is_present(fields[name]):
            return fields[name]
    return None


def is_present(value: object) -> bool:
    """Return whether a field has a value: null, NaN and empty strings, lists and objects mean that it is absent."""
    return not (value is None or (isinstance(value, float) and math.isnan(value)) or value in ("", [], {}))


def texts_of(value: object) -> Iterator[str]:
    """Yield the texts of a field: a string, a number, or a list or object of them. Raises ValueError for others."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts_of(one)
    elif isinstance(value, dict):
        for name in fields_named(value, (*CAPTION_NAMES, "raw")):
            yield from texts_of(value[name])
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            yield str(value)
    elif value is not None:
        raise ValueError(f"expected a string or a list of strings, got {value!r:.100}")
