"""Training crops: random scale, place and mirror, drawn by (seed, step) so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from PIL import Image

from shared.codec import TEMPORAL_FACTOR
from shared.errors import RefusedInput, UsageError
from vq_stage.media.image_decoding import decode_rgb
from vq_stage.sources.media_source import MediaSource

SCALES = (0.7, 4.0)  # short side of a picture before cropping, in units of the crop
MAX_PAN = 0.08  # motion of a synthetic clip from frame to frame, in units of the crop


Picture = tuple[str, tuple[int, int] | None]  # uri, place within a container


def check_pictures(source: MediaSource) -> list[Picture]:
    """The pictures that can be decoded. Raises UsageError if none can."""
    listed = [(item.uri, item.locator) for item in source if item.refusal is None and item.kind == "image"]
    usable = [picture for picture in listed if _is_usable(source, picture)]
    if not usable:
        raise UsageError(
            f"{source.root}: none of {len(listed)} pictures can be decoded; try `emu3 encode` for the reasons"
        )
    return usable


def _is_usable(source: MediaSource, picture: Picture) -> bool:
    try:
        _load(source, picture)
    except RefusedInput:
        return False
    return True


def _load(source: MediaSource, picture: Picture) -> Image.Image:
    with source.open(*picture) as file:
        return decode_rgb(file.read())


def training_batches(
    source: MediaSource,
    pictures: list[Picture],
    crop: int,
    batch: int,
    clip_share: float,
    seed: int,
    first_step: int,
    reader_threads: int,
) -> Iterator[np.ndarray]:
    """uint8 batches (B, T, crop, crop, 3) from `first_step` on, without end.

    T is 1, or 4 for a share of the steps: clips made by panning the crop across a picture, a quarter as many.
    """

    def load(step: int, index: int, frames: int) -> np.ndarray:
        random = np.random.default_rng((seed, step, index))
        picture = _load(source, pictures[random.integers(len(pictures))])
        return random_crop(picture, crop, frames, random)

    def submit(step: int) -> list:
        is_clip = np.random.default_rng((seed, step)).random() < clip_share
        frames, count = (TEMPORAL_FACTOR, max(1, batch // TEMPORAL_FACTOR)) if is_clip else (1, batch)
        return [pool.submit(load, step, index, frames) for index in range(count)]

    with ThreadPoolExecutor(reader_threads, thread_name_prefix="reader") as pool:
        steps = iter(range(first_step, 1 << 62))
        ahead = [submit(step) for step in islice(steps, 3)]
        while True:
            yield np.stack([future.result() for future in ahead.pop(0)])
            ahead.append(submit(next(steps)))


def random_crop(image: Image.Image, crop: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """uint8 (frames, crop, crop, 3); pictures smaller than the crop stand on white."""
    low, high = np.log(SCALES)
    scale = crop * float(np.exp(random.uniform(low, high))) / min(image.size)
    width, height = (max(8, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    margin = crop if frames > 1 else max(0, crop - min(width, height))
    pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    top, left = (margin + _offset(side, crop, random) for side in (height, width))
    pan = random.uniform(-MAX_PAN * crop, MAX_PAN * crop, size=2) if frames > 1 else np.zeros(2)
    places = [(top + round(pan[0] * t), left + round(pan[1] * t)) for t in range(frames)]
    return np.stack([pixels[y : y + crop, x : x + crop] for y, x in places])


def _offset(side: int, crop: int, random: np.random.Generator) -> int:
    slack = side - crop
    return int(random.integers(min(0, slack), max(0, slack) + 1))
