"""Training crops: random scale, position and mirroring, drawn by (seed, step) so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice

import numpy as np
from PIL import Image

from shared.errors import RefusedInput, UsageError
from shared.jobs.prefetch import prefetch_map
from vq_stage.media.image_decoding import decode_rgb, read_bytes
from vq_stage.sources.media_source import MediaSource
from vq_stage.training.options import TrainVQOptions

SCALES = (0.7, 4.0)  # range of a picture's short side before cropping, in units of the crop
MAX_PAN = 0.08  # motion of a synthetic clip from frame to frame, in units of the crop
MIN_SIDE = 8
STEPS_AHEAD = 3


class TrainingPictures:
    """The pictures of a source that can be decoded; all are decoded once to find out.

    Raises UsageError if there are none.
    """

    def __init__(self, source: MediaSource):
        self._source = source
        listed = [(item.uri, item.locator) for item in source if item.refusal is None and item.kind == "image"]
        self._pictures = [picture for picture in listed if self._is_decodable(*picture)]
        if not self._pictures:
            raise UsageError(
                f"{source.root}: none of {len(listed)} pictures can be decoded; run `emu3 plan {source.root}` to see"
                " the reasons"
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def load(self, index: int) -> Image.Image:
        """Return a picture in RGB. Safe to call from several threads. Raises RefusedInput."""
        return self._decode(*self._pictures[index])

    def _decode(self, uri: str, locator: tuple[int, int] | None) -> Image.Image:
        with self._source.open(uri, locator) as file:
            return decode_rgb(read_bytes(file))

    def _is_decodable(self, uri: str, locator: tuple[int, int] | None) -> bool:
        try:
            self._decode(uri, locator)
        except RefusedInput:
            return False
        return True


def training_batches(
    pictures: TrainingPictures, options: TrainVQOptions, temporal_factor: int, first_step: int
) -> Iterator[np.ndarray]:
    """Yield uint8 batches (B, T, crop, crop, 3), one per step from `first_step` on, without end.

    T is 1, or `temporal_factor` for a share of the steps: clips of the frames of one code, made by panning the crop
    across a picture. A batch of clips has about as many frames as one of pictures.
    """
    seed = options.seed

    def load_crop(sample: tuple[int, int, int]) -> np.ndarray:
        step, index, frames = sample
        random = np.random.default_rng((seed, step, index))
        picture = pictures.load(random.integers(len(pictures)))
        return random_crop(picture, options.crop, frames, random)

    def samples_of(step: int) -> list[tuple[int, int, int]]:
        frames, samples = 1, options.batch
        if np.random.default_rng((seed, step)).random() < (options.clip_share or 0.0):
            frames, samples = temporal_factor, max(1, options.batch // temporal_factor)
        return [(step, index, frames) for index in range(samples)]

    all_samples = (sample for step in count(first_step) for sample in samples_of(step))
    with closing(prefetch_map(load_crop, all_samples, options.reader_threads, STEPS_AHEAD * options.batch)) as crops:
        for step in count(first_step):
            yield np.stack(list(islice(crops, len(samples_of(step)))))


def random_crop(image: Image.Image, crop: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """Return uint8 pixels (frames, crop, crop, 3) of a scaled, maybe mirrored picture, panned if frames > 1.

    A picture smaller than the crop is padded with white.
    """
    low, high = np.log(SCALES)
    scale = crop * float(np.exp(random.uniform(low, high))) / min(image.size)
    width, height = (max(MIN_SIDE, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    margin = crop if frames > 1 else max(0, crop - min(width, height))
    pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    top, left = (margin + _random_offset(side, crop, random) for side in (height, width))
    pan = random.uniform(-MAX_PAN * crop, MAX_PAN * crop, size=2) if frames > 1 else np.zeros(2)
    corners = [(top + round(pan[0] * t), left + round(pan[1] * t)) for t in range(frames)]
    return np.stack([pixels[y : y + crop, x : x + crop] for y, x in corners])


def _random_offset(side: int, crop: int, random: np.random.Generator) -> int:
    slack = side - crop
    return int(random.integers(min(0, slack), max(0, slack) + 1))
