"""What there is to generate: lines of text, JSON lines with settings of their own, or the captions of a dataset."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.codec import SPATIAL_FACTOR
from shared.dataset.code_index import CodeIndex
from shared.dataset.dataset import Dataset
from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path

FIELDS = frozenset(
    {
        "key",
        "name",
        "prompt",
        "text",
        "negative_prompt",
        "ratio",
        "area",
        "height",
        "width",
        "seed",
        "samples",
        "images",
        "frames",
        "video",
        "fps",
    }
)
SEED_BITS = 63
MAX_SIDE = 65535 // SPATIAL_FACTOR  # codes; a plan holds sides of up to 65535 pixels
MAX_FRAMES = 65535  # of codes; as a plan holds them
MAX_FPS = 1000


@dataclass(frozen=True, slots=True)
class PromptDefaults:
    """Settings of prompts that do not give their own. `area`, `height` and `width` are in pixels, `ratio` is w:h.

    `frames` is in frames of codes, each four of the video; 0 asks for images.
    `is_size_given` tells a size asked for from the model's own, which gives way to the size of a dataset's row.
    """

    area: int
    ratio: str = "1:1"
    height: int | None = None
    width: int | None = None
    negative_prompt: str = ""
    seed: int = 0
    samples: int = 1
    is_size_given: bool = False
    frames: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.frames <= MAX_FRAMES:
            raise UsageError(f"--frames {self.frames}: expected 0 (images) to {MAX_FRAMES} frames of codes")
        if self.samples < 1:
            raise UsageError(f"--samples {self.samples}: expected at least 1")
        if self.seed.bit_length() > SEED_BITS:
            raise UsageError(f"--seed {self.seed}: expected a number of 64 bits")
        try:
            grid_size(self.ratio, self.area, self.height, self.width)
        except RefusedInput as refusal:
            raise UsageError(f"image size: {refusal.detail}") from refusal


@dataclass(frozen=True, slots=True)
class Prompt:
    """One image or video to generate; `height` and `width` are in codes; `images` are keys of a codes dataset.

    `frames` is 0 for an image, else the frames of codes of the whole video. `video` is the key of the clip that it
    begins with, whose size (0 × 0 until then) and `fps` it takes on, see planning.py.
    """

    key: str
    uri: str
    text: str
    negative_prompt: str = ""
    height: int = 0
    width: int = 0
    seed: int = 0
    images: tuple[str, ...] = ()
    refusal: tuple[str, str] | None = None
    frames: int = 0
    video: str | None = None
    fps: float | None = None


def grid_size(ratio: str, area: int, height: int | None = None, width: int | None = None) -> tuple[int, int]:
    """Height and width in codes, from pixels, or as upstream from a ratio w:h and an area.

    Raises RefusedInput (bad_ratio, bad_size) for what gives no image.
    """
    if (height is None) != (width is None):
        raise RefusedInput("bad_size", "height and width: expected both or neither")
    if height is not None and width is not None:
        if height < SPATIAL_FACTOR or width < SPATIAL_FACTOR or height % SPATIAL_FACTOR or width % SPATIAL_FACTOR:
            raise RefusedInput("bad_size", f"{height}×{width} pixels: expected multiples of {SPATIAL_FACTOR}")
        return _within_plan((height // SPATIAL_FACTOR, width // SPATIAL_FACTOR))
    try:
        across, down = (float(number) for number in ratio.split(":"))
    except (ValueError, AttributeError):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r}: expected width:height, such as 16:9") from None
    if not (0 < across < math.inf and 0 < down < math.inf):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r}: expected two positive numbers")
    if area < SPATIAL_FACTOR**2:
        raise RefusedInput("bad_size", f"area {area}: expected at least {SPATIAL_FACTOR**2} pixels")
    try:
        scale = math.sqrt(area / (across * down))
        size = round(down * scale / SPATIAL_FACTOR), round(across * scale / SPATIAL_FACTOR)
    except (ZeroDivisionError, OverflowError):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r} and area {area} give no size") from None
    if min(size) < 1:
        raise RefusedInput("bad_ratio", f"ratio {ratio!r} and area {area} give {size[0]}×{size[1]} codes")
    return _within_plan(size)


def _within_plan(size: tuple[int, int]) -> tuple[int, int]:
    if max(size) > MAX_SIDE:
        raise RefusedInput("bad_size", f"{size[0]}×{size[1]} codes: expected at most {MAX_SIDE} a side")
    return size


def list_prompts(location: str | Path, defaults: PromptDefaults) -> list[Prompt]:
    """All prompts of a `.txt` (a line each), `.json`, `.jsonl` or codes dataset, in order, samples side by side.

    Raises UsageError if there is none or the file cannot be read; a bad entry is a prompt with a refusal.
    """
    path = as_path(location)
    try:
        if (path / "plan.arrow").is_file():
            prompts = list(_from_dataset(Dataset.open(path), defaults))
        elif path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            entries = ((number, {"prompt": line.strip()}) for number, line in enumerate(lines, 1) if line.strip())
            prompts = list(_from_entries(path.name, entries, defaults))
        elif path.suffix in (".json", ".jsonl"):
            prompts = list(_from_entries(path.name, _json_entries(path), defaults))
        else:
            raise UsageError(f"{path}: expected prompts as .txt, .json or .jsonl, or a codes dataset")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as prompts: {error}") from error
    if not prompts:
        raise UsageError(f"{path}: holds no prompt")
    return list(_refuse_duplicates(prompts))


def _json_entries(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        return ((number, json.loads(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError(f"expected a list of prompts, got {type(entries).__name__}")
    return iter(enumerate(entries, 1))


def _from_entries(name: str, entries: Iterable[tuple[int, Any]], defaults: PromptDefaults) -> Iterator[Prompt]:
    for number, entry in entries:
        uri = f"{name}#{number}"
        fields = {"prompt": entry} if isinstance(entry, str) else entry
        key = f"{number:06d}"
        try:
            if not isinstance(fields, dict):
                raise RefusedInput("bad_entry", f"expected text or an object, got {type(fields).__name__}")
            key = _key(fields.get("key", fields.get("name", key)))
            yield from _samples(_prompt(key, uri, fields, defaults), fields.get("samples", defaults.samples))
        except RefusedInput as refusal:
            yield Prompt(key, uri, "", refusal=(refusal.reason, refusal.detail))


def _prompt(key: str, uri: str, fields: Mapping[str, Any], defaults: PromptDefaults) -> Prompt:
    if unknown := sorted(set(fields) - FIELDS):
        raise RefusedInput(
            "bad_entry", f"unknown {', '.join(map(repr, unknown))}; known are {', '.join(sorted(FIELDS))}"
        )
    text = fields.get("prompt", fields.get("text"))
    if not isinstance(text, str) or not text.strip():
        raise RefusedInput("empty_prompt", f"expected `prompt` with some text, got {text!r:.100}")
    _utf8("prompt", text)
    images = fields.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise RefusedInput("bad_entry", f"`images`: expected a list of keys, got {images!r:.100}")
    _utf8("images", "".join(images))
    height, width = _size(fields, defaults)
    seed = _whole(fields, "seed", defaults.seed) or 0
    if seed.bit_length() > SEED_BITS:
        raise RefusedInput("bad_entry", f"`seed`: expected a number of 64 bits, got {seed}")
    negative = fields.get("negative_prompt", defaults.negative_prompt)
    if not isinstance(negative, str):
        raise RefusedInput("bad_entry", f"`negative_prompt`: expected text, got {negative!r:.100}")
    negative = _utf8("negative_prompt", negative)
    video = _video(fields, defaults)
    return Prompt(key, uri, text, negative, height, width, seed, tuple(images), None, *video)


def _size(fields: Mapping[str, Any], defaults: PromptDefaults) -> tuple[int, int]:
    """Height and width in codes; 0 × 0 is that of the clip that a video begins with."""
    if fields.get("video") is not None and not {"ratio", "area", "height", "width"} & set(fields):
        return 0, 0
    size = [_whole(fields, name, getattr(defaults, name)) for name in ("area", "height", "width")]
    if ("ratio" in fields or "area" in fields) and "height" not in fields and "width" not in fields:
        size[1:] = [None, None]
    area = defaults.area if size[0] is None else size[0]
    return grid_size(fields.get("ratio", defaults.ratio), area, size[1], size[2])


def _video(fields: Mapping[str, Any], defaults: PromptDefaults) -> tuple[int, str | None, float | None]:
    """Frames, key of the clip to begin with, fps. Raises RefusedInput (bad_frames, bad_entry)."""
    frames = _whole(fields, "frames", defaults.frames) or 0
    video, fps = fields.get("video"), fields.get("fps")
    if not 0 <= frames <= MAX_FRAMES:
        raise RefusedInput("bad_frames", f"`frames`: expected 0 (an image) to {MAX_FRAMES}, got {frames}")
    if video is not None and (not isinstance(video, str) or not _utf8("video", video)):
        raise RefusedInput("bad_entry", f"`video`: expected a key, got {video!r:.100}")
    if video is not None and not frames:
        raise RefusedInput("bad_frames", "`video`: expected `frames` too, more than that clip has")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < MAX_FPS):
        raise RefusedInput("bad_entry", f"`fps`: expected a number above 0, got {fps!r:.100}")
    if fps is not None and not frames:
        raise RefusedInput("bad_entry", "`fps`: expected `frames` too, an image has none")
    return frames, video, None if fps is None else float(fps)


def _key(value: object) -> str:
    """A key as given: text, or a whole number."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise RefusedInput("bad_entry", f"`key`: expected text, got {value!r:.100}")
    return _utf8("key", str(value))


def _utf8(name: str, text: str) -> str:
    """JSON can spell half a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedInput("bad_entry", f"`{name}`: not text: {error}") from None
    return text


def _whole(fields: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = fields.get(name, default)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise RefusedInput("bad_entry", f"`{name}`: expected a whole number, got {value!r:.100}")
    return value


def _samples(prompt: Prompt, count: object) -> Iterator[Prompt]:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RefusedInput("bad_entry", f"`samples`: expected a whole number from 1, got {count!r:.100}")
    if count == 1:
        yield prompt
    else:
        yield from (replace(prompt, key=f"{prompt.key}-{index}") for index in range(count))


def _from_dataset(dataset: Dataset, defaults: PromptDefaults) -> Iterator[Prompt]:
    index = CodeIndex(dataset)
    for key in index:
        row = index.row(key)
        if not row.text:
            yield Prompt(key, f"{dataset.root.name}#{key}", "", refusal=("empty_prompt", "the row has no caption"))
            continue
        fields: dict[str, Any] = {"prompt": row.text}
        if not defaults.is_size_given:
            fields |= {name: size * SPATIAL_FACTOR for name, size in zip(("height", "width"), row.codes_THW.shape[1:])}
        if row.kind == "video":
            fields |= {"frames": defaults.frames or len(row.codes_THW), "fps": row.fps}
        uri = f"{dataset.root.name}#{key}"
        try:
            yield from _samples(_prompt(key, uri, fields, defaults), defaults.samples)
        except RefusedInput as refusal:
            yield Prompt(key, uri, row.text, refusal=(refusal.reason, refusal.detail))


def _refuse_duplicates(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    seen: dict[str, str] = {}
    for prompt in prompts:
        if prompt.key in seen:
            detail = f"key {prompt.key!r} is taken by {seen[prompt.key]}"
            prompt = replace(prompt, refusal=("duplicate_key", detail))
        seen.setdefault(prompt.key, prompt.uri)
        yield prompt
