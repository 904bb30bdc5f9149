"""From items of a source to planned inputs: sizes from headers, units of one size each, videos cut into clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tqdm import tqdm

from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import REFUSED, PlannedInput, Size
from shared.dataset.plan_writer import PlanWriter
from shared.errors import JobStoppedError, RefusedInput
from shared.jobs.prefetch import prefetch_map
from shared.jobs.signals import StopFlag
from vq_stage.media.image_decoding import read_size
from vq_stage.media.resizing import Preprocessing
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.video.clips import ClipSampling, cut_clips

DUPLICATES = ("keep", "once")
Sized = tuple[Size, PlannedInput]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a source is cut into units. `duplicates` once: of equal files only the first is encoded."""

    unit_rows: int
    reader_threads: int
    max_refused_in_a_row: int
    duplicates: str = "keep"


class Planner:
    """Measures the items of a source, ahead of the one that is written down."""

    def __init__(self, source: MediaSource, preprocessing: Preprocessing, sampling: ClipSampling, options: PlanOptions):
        self.source = source
        self.preprocessing = preprocessing
        self.sampling = sampling
        self.options = options

    def plan(
        self, writer: PlanWriter, items: Iterable[MediaItem], keys: KnownKeys, first_index: int, stop: StopFlag
    ) -> None:
        """Plans items under their keys, in order, from `src_index` `first_index` on, into a writer.

        Raises Interrupted once `stop` is set, and JobStoppedError if too many inputs in a row are refused: then it
        is the source that is broken.
        """
        contents, in_a_row = KnownKeys(), 0
        measured = prefetch_map(self.measure, items, self.options.reader_threads, 64 * self.options.reader_threads)
        for sized, digest in tqdm(measured, "plan", unit="input", disable=None):
            stop.raise_if_set("nothing was planned")
            for size, planned in sized:
                if not keys.is_new(planned.key):
                    size, planned = _refused(planned, "duplicate_key", f"key {planned.key!r} is taken")
                elif digest and not contents.is_new(f"{digest}{planned.frame_start}"):
                    size, planned = _refused(planned, "duplicate_content", "equal to a file before it")
                writer.add(size, replace(planned, src_index=first_index + writer.inputs))
                in_a_row = in_a_row + 1 if planned.refused_reason else 0
                if in_a_row > self.options.max_refused_in_a_row:
                    raise JobStoppedError(
                        f"{self.source.root}: more than {self.options.max_refused_in_a_row} inputs in a row refused,"
                        f" the last: {planned.uri}: {planned.refused_reason}: {planned.refused_detail}; nothing was"
                        " planned; check the source or raise --max-refused-in-a-row"
                    )

    def measure(self, item: MediaItem) -> tuple[list[Sized], str | None]:
        """The sized inputs of an item, from headers, and the digest of its content if that is asked for."""
        planned = PlannedInput(0, item.key, item.uri, item.text, extra_json=item.extra_json, locator=item.locator)
        try:
            if item.refusal is not None:
                raise RefusedInput(*item.refusal)
            sized = list(self._sized(item, planned))
            is_hashed = self.options.duplicates == "once"
            return sized, self.source.sha256(item.uri, item.locator).hex() if is_hashed else None
        except RefusedInput as refusal:
            return [_refused(planned, refusal.reason, refusal.detail)], None

    def _sized(self, item: MediaItem, planned: PlannedInput) -> Iterator[Sized]:
        if item.kind == "image":
            try:
                with self.source.open(item.uri, item.locator) as file:
                    yield (1, *self.preprocessing.target_size(*read_size(file))), planned
                return
            except RefusedInput as refusal:
                if refusal.reason != "animated":
                    raise
        with self.source.video(item.uri, item.locator, item.extra_json) as video:
            info = video.info
        size = self.preprocessing.target_size(info.height, info.width)
        clips = cut_clips(info, self.sampling)
        for number, clip in enumerate(clips):
            key = clip_key(item.key, number) if len(clips) > 1 else item.key
            yield (
                (clip.frames, *size),
                replace(planned, key=key, frame_start=clip.frame_start, frame_stride=clip.frame_stride, fps=clip.fps),
            )


def clip_key(key: str, number: int) -> str:
    """Key of one of several clips of a video."""
    return f"{key}#{number:05d}"


def _refused(planned: PlannedInput, reason: str, detail: str) -> Sized:
    return REFUSED, replace(planned, refused_reason=reason, refused_detail=detail)
