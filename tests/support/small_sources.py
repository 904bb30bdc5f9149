"""Sources in memory that record what is opened and listed, and small images and videos for them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from shared.codec import EMU3, Codec
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, PlannedInput, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.errors import RefusedInput
from vq_stage.encode.estimate import grid
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.planner import Planner
from vq_stage.media.resizing import Preprocessing
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.video.encoding import encode_video_file

HEIGHT, WIDTH = 16, 24


@dataclass(frozen=True)
class MemorySource(MediaSource):
    """Items and the content of their URIs; an item without content is missing.

    `opened` lists every URI that is opened, `listings` the number of items of every listing.
    """

    media_items: list[MediaItem] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    listings: list[int] = field(default_factory=list)

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Any:
        new = [item for item in self.media_items if not is_planned(item)]
        self.listings.append(len(new))
        yield from new

    def _empty_message(self) -> None:
        """Return None: the source may be empty."""

    def open(self, uri: str, locator: tuple[int, int] | None = None) -> BinaryIO:
        self.opened.append(uri)
        if uri not in self.contents:
            raise RefusedInput("missing", "the file does not exist")
        return io.BytesIO(self.contents[uri])

    def add(self, uri: str, content: bytes | None, text: str | None = None, key: str | None = None) -> None:
        """Add an item, by default with its URI without the suffix as key; content None makes it missing."""
        kind = "video" if uri.endswith(".mp4") else "image"
        self.media_items.append(MediaItem(uri.rpartition(".")[0] if key is None else key, uri, text, kind))
        if content is not None:
            self.contents[uri] = content


def memory_source(**contents: bytes) -> MemorySource:
    """Return a source of images `name.png`."""
    source = MemorySource(Path("memory"))
    for name, content in contents.items():
        source.add(f"{name}.png", content)
    return source


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return smooth noise (height, width, 3), different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def png(seed: int, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(buffer, "PNG")
    return buffer.getvalue()


def movie(frames: int, fps: float = 8, kind: str = "mp4", seed: int = 0) -> bytes:
    """Return an mp4, or an animated WebP, in which all frames differ."""
    return encode_video_file(np.stack([pixels(1000 * seed + number) for number in range(frames)]), fps, kind, 90)


def gif(frames: int, seed: int = 0) -> bytes:
    """Return a GIF with ten frames per second; one frame makes a still image."""
    images = [Image.fromarray(pixels(500 + 1000 * seed + number)) for number in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=100)
    return buffer.getvalue()


def planner(source: MediaSource, unit_rows: int = 4, codec: Codec = EMU3, **options: Any) -> Planner:
    """Return a planner that keeps the sizes of images, and cuts videos into clips of 16 frames at 8 per second."""
    values = {"preprocessing": Preprocessing("none"), "max_refused_in_a_row": 100, **options}
    return Planner(EncodeOptions(str(source.root), "", unit_rows=unit_rows, **values), codec, source)


def commit_missing(
    dataset: Dataset, plan: Plan, broken: Mapping[str, str] | None = None, source: MediaSource | None = None
) -> None:
    """Commit all units as a job does; `broken` maps keys that are refused only when they are read to their reasons.

    Rows have the digests of the content of `source`, if it is given.
    """
    reasons = broken or {}
    for number in dataset.missing_units(plan):
        unit = plan.unit(number)
        good = [planned for planned in unit.inputs if not (planned.refused_reason or planned.key in reasons)]
        bad = [planned for planned in unit.inputs if planned.refused_reason or planned.key in reasons]
        refusals = [
            Refusal(one.key, one.src_index, one.uri, one.refused_reason or reasons[one.key], "found so") for one in bad
        ]
        dataset.commit(UnitResult(number, [_row(unit, one, source) for one in good], refusals=refusals), plan)
    dataset.write_manifest(plan)


def _row(unit: Unit, planned: PlannedInput, source: MediaSource | None) -> CodeRecord:
    sha256 = source.sha256(planned.uri, planned.locator) if source else bytes(32)
    codes_THW = np.zeros(grid(unit.size, EMU3), EMU3.code_dtype)
    kind = "video" if unit.frames > 1 else "image"
    return CodeRecord(
        planned.key, planned.src_index, kind, codes_THW, planned.text, planned.uri, sha256, unit.height, unit.width
    )


def inputs_of(plan: Plan, wanted: Callable[[PlannedInput], bool] = lambda planned: True) -> list[PlannedInput]:
    """Return the wanted inputs of a plan, in the order of units."""
    return [planned for unit in range(len(plan)) for planned in plan.unit(unit).inputs if wanted(planned)]
