"""Planning of items: sizes from headers, videos cut into clips, duplicates and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tqdm import tqdm

from shared.codec import NO_VIDEO_MESSAGE, Codec
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import REFUSED, PlannedInput, Size
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.quarantine_reasons import DUPLICATE_CONTENT, DUPLICATE_KEY, IMAGES_ONLY, READ_TIMEOUT
from shared.errors import RefusedInput, UsageError
from shared.jobs.prefetch import TimeLimit, prefetch_map
from shared.jobs.signals import StopFlag
from vq_stage.encode.keys import clip_key
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.refusal_limit import RefusalLimit
from vq_stage.media.image_decoding import read_size
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.open_source import open_source
from vq_stage.video.clips import cut_clips

SizedInput = tuple[Size, PlannedInput]
MAX_SAME_KEYS = 1000


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """The inputs of one item with their sizes, and with `--duplicates once` the SHA-256 of its content in hex."""

    item: MediaItem
    inputs: list[SizedInput]
    content_sha256: str | None = None


class Planner:
    """Plans the items of a source; threads read their headers ahead of the one that writes the plan.

    Raises UsageError for settings that do not suit the codec.
    """

    def __init__(self, options: EncodeOptions, codec: Codec, source: MediaSource | None = None):
        self.options, self.codec = options, codec
        options.check(codec)
        self.source = source or open_source(options.source, options.image_root, options.key)

    def plan_all(self, writer: PlanWriter, stop: StopFlag) -> None:
        """Plan all items of the source. Raises UsageError if there are none, and what `plan_items` raises."""
        items = self.source.items(until_stopped(stop))
        self.plan_items(writer, items, KnownKeys(), 0, stop)
        if not writer.inputs:
            raise UsageError(f"{self.source.root}: found nothing to encode")

    def plan_items(
        self, writer: PlanWriter, items: Iterable[MediaItem], keys: KnownKeys, first_index: int, stop: StopFlag
    ) -> None:
        """Plan items in order and write them with `src_index` from `first_index` on; `keys` are in use already.

        Raises Interrupted once `stop` is set, and JobStoppedError if too many inputs in a row are refused.
        """
        contents, threads = KnownKeys(), self.options.reader_threads
        limit = RefusalLimit(self.options.max_refused_in_a_row, "nothing was planned")
        time_limit = TimeLimit(self.options.read_timeout_s, self._give_up)
        planned_items = prefetch_map(self.plan_item, items, threads, 64 * threads, stop, time_limit)
        for item in tqdm(planned_items, "plan", unit="input", disable=None):
            stop.raise_if_set("nothing was planned")
            for size, planned in _with_free_keys(item, keys):
                if not keys.is_new(planned.key):
                    size, planned = _refused(planned, DUPLICATE_KEY, f"key {planned.key!r} is already in use")
                elif item.content_sha256 and not contents.is_new(f"{item.content_sha256}{planned.frame_start}"):
                    size, planned = _refused(planned, DUPLICATE_CONTENT, "the content equals that of an earlier file")
                writer.add(size, planned._replace(src_index=first_index + writer.inputs))
                if planned.refused_reason is None:
                    limit.count_accepted()
                else:
                    limit.count_refused(planned.uri, planned.refused_reason, planned.refused_detail or "")

    def plan_item(self, item: MediaItem) -> PlannedItem:
        """Plan one item from its header; a bad item becomes one refused input. Their `src_index` is 0."""
        planned = _planned(item)
        try:
            if item.refusal is not None:
                raise RefusedInput(*item.refusal)
            inputs = list(self._sized_inputs(item, planned))
            is_hashed = self.options.duplicates == "once"
            return PlannedItem(item, inputs, self.source.sha256(item.uri, item.locator).hex() if is_hashed else None)
        except RefusedInput as refusal:
            return PlannedItem(item, [_refused(planned, refusal.reason, refusal.detail)])

    def _give_up(self, item: MediaItem) -> PlannedItem:
        detail = f"not read within {self.options.read_timeout_s:g} s"
        return PlannedItem(item, [_refused(_planned(item), READ_TIMEOUT, detail)])

    def _sized_inputs(self, item: MediaItem, planned: PlannedInput) -> Iterator[SizedInput]:
        """Yield an image, or the clips of a video; an animated image is a video."""
        if item.kind == "image":
            try:
                with self.source.open(item.uri, item.locator) as file:
                    height, width = read_size(file)
                yield (1, *self._target_size(height, width)), planned
                return
            except RefusedInput as refusal:
                if refusal.reason != "animated":
                    raise
        if not self.codec.supports_video:
            raise RefusedInput(IMAGES_ONLY, NO_VIDEO_MESSAGE)
        with self.source.video(item.uri, item.locator, item.extra_json) as video:
            info = video.info
        height, width = self._target_size(info.height, info.width)
        clips = cut_clips(info, self.options.sampling, self.codec)
        for number, clip in enumerate(clips):
            key = clip_key(item.key, number) if len(clips) > 1 else item.key
            yield (
                (clip.frames, height, width),
                planned._replace(key=key, frame_start=clip.frame_start, frame_stride=clip.frame_stride, fps=clip.fps),
            )

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        return self.options.preprocessing.target_size(height, width, self.codec)


def until_stopped(
    stop: StopFlag, is_planned: Callable[[MediaItem], bool] = lambda item: False
) -> Callable[[MediaItem], bool]:
    """Return the function, made to raise Interrupted once `stop` is set: listing a source may take long."""

    def checked(item: MediaItem) -> bool:
        stop.raise_if_set("nothing was planned")
        return is_planned(item)

    return checked


def _planned(item: MediaItem) -> PlannedInput:
    return PlannedInput(0, item.key, item.uri, item.text, extra_json=item.extra_json, locator=item.locator)


def _with_free_keys(planned: PlannedItem, keys: KnownKeys) -> list[SizedInput]:
    """Return the inputs under a key that is not in use, if the item has another one than its own."""
    item = planned.item
    for candidate in _candidate_keys(item):
        renamed = [(size, one._replace(key=candidate + one.key[len(item.key) :])) for size, one in planned.inputs]
        if not any(keys.has(one.key) for _, one in renamed):
            return renamed
    return planned.inputs


def _candidate_keys(item: MediaItem) -> Iterator[str]:
    yield item.key
    if item.other_keys:
        other, first = item.other_keys[-1], max(2, item.number - 1)  # those before it have the lower numbers
        yield other
        yield from (f"{other}~{number}" for number in range(first, first + MAX_SAME_KEYS))


def _refused(planned: PlannedInput, reason: str, detail: str) -> SizedInput:
    return REFUSED, planned._replace(refused_reason=reason, refused_detail=detail)
