"""Validates the fields of one prompt. Bad fields refuse this prompt only, with a reason code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_stage.generate.grid_size import grid_size
from lm_stage.generate.prompts import MAX_FRAMES, SEED_BITS, Prompt, PromptDefaults
from shared.errors import RefusedInput

MAX_FPS = 1000
SIZE_FIELDS = frozenset({"ratio", "area", "height", "width"})
FIELDS = SIZE_FIELDS | {"key", "name", "prompt", "text", "negative_prompt", "seed", "samples", "images"}
FIELDS |= {"frames", "video", "fps"}


def parse_prompt(key: str, uri: str, fields: Mapping[str, Any], defaults: PromptDefaults) -> Prompt:
    """Build a prompt from its fields.

    Raises RefusedInput with one of the reasons `bad_entry`, `empty_prompt`, `bad_ratio`, `bad_size`, `bad_frames`.
    """
    if unknown := sorted(set(fields) - FIELDS):
        raise RefusedInput(
            "bad_entry", f"unknown fields {', '.join(map(repr, unknown))}; expected some of {', '.join(sorted(FIELDS))}"
        )
    text = _caption(fields)
    images = _images(fields)
    height, width = _size(fields, defaults)
    seed = _seed(fields, defaults)
    negative_prompt = _text("negative_prompt", fields.get("negative_prompt", defaults.negative_prompt))
    frames = _frames(fields, defaults)
    video, fps = _continued_clip(fields, frames), _fps(fields, frames)
    return Prompt(key, uri, text, negative_prompt, height, width, seed, images, None, frames, video, fps)


def parse_key(value: object) -> str:
    """Return a key as text; an integer is accepted too. Raises RefusedInput (`bad_entry`) for anything else."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise RefusedInput("bad_entry", f"`key`: expected text, got {value!r:.100}")
    return _text("key", str(value))


def parse_samples(value: object) -> int:
    """Return the number of images per prompt. Raises RefusedInput (`bad_entry`) if it is not a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RefusedInput("bad_entry", f"`samples`: expected an integer of at least 1, got {value!r:.100}")
    return value


def _caption(fields: Mapping[str, Any]) -> str:
    text = fields.get("prompt", fields.get("text"))
    if not isinstance(text, str) or not text.strip():
        raise RefusedInput("empty_prompt", f"expected `prompt` or a caption with some text, got {text!r:.100}")
    return _text("prompt", text)


def _images(fields: Mapping[str, Any]) -> tuple[str, ...]:
    images = fields.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise RefusedInput("bad_entry", f"`images`: expected a list of keys, got {images!r:.100}")
    return tuple(_text("images", image) for image in images)


def _size(fields: Mapping[str, Any], defaults: PromptDefaults) -> tuple[int, int]:
    """Return height and width in codes; (0, 0) means the size of the clip that a video continues."""
    if fields.get("video") is not None and not SIZE_FIELDS & set(fields):
        return 0, 0
    area = _integer(fields, "area", defaults.area)
    height = _integer(fields, "height", defaults.height)
    width = _integer(fields, "width", defaults.width)
    if {"ratio", "area"} & set(fields) and not {"height", "width"} & set(fields):
        height = width = None
    return grid_size(fields.get("ratio", defaults.ratio), defaults.area if area is None else area, height, width)


def _seed(fields: Mapping[str, Any], defaults: PromptDefaults) -> int:
    seed = _integer(fields, "seed", defaults.seed) or 0
    if seed.bit_length() > SEED_BITS:
        raise RefusedInput("bad_entry", f"`seed`: expected a 64-bit integer, got {seed}")
    return seed


def _frames(fields: Mapping[str, Any], defaults: PromptDefaults) -> int:
    frames = _integer(fields, "frames", defaults.frames) or 0
    if not 0 <= frames <= MAX_FRAMES:
        raise RefusedInput("bad_frames", f"`frames`: expected 0 (an image) to {MAX_FRAMES}, got {frames}")
    return frames


def _continued_clip(fields: Mapping[str, Any], frames: int) -> str | None:
    key = fields.get("video")
    if key is None:
        return None
    if not isinstance(key, str) or not _text("video", key):
        raise RefusedInput("bad_entry", f"`video`: expected a key, got {key!r:.100}")
    if not frames:
        raise RefusedInput("bad_frames", "`video`: expected `frames` too, more than that clip has")
    return key


def _fps(fields: Mapping[str, Any], frames: int) -> float | None:
    fps = fields.get("fps")
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < MAX_FPS:
        raise RefusedInput("bad_entry", f"`fps`: expected a number above 0 and below {MAX_FPS}, got {fps!r:.100}")
    if not frames:
        raise RefusedInput("bad_entry", "`fps`: expected `frames` too; an image has no frame rate")
    return float(fps)


def _text(name: str, value: object) -> str:
    """Return text that UTF-8 can encode; JSON can contain unpaired surrogates, which it cannot."""
    if not isinstance(value, str):
        raise RefusedInput("bad_entry", f"`{name}`: expected text, got {value!r:.100}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RefusedInput("bad_entry", f"`{name}`: not valid Unicode: {error}") from None
    return value


def _integer(fields: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = fields.get(name, default)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise RefusedInput("bad_entry", f"`{name}`: expected an integer, got {value!r:.100}")
    return value
