"""From a source to a frozen plan: sizes from headers, units of one size each."""

from __future__ import annotations

from collections import defaultdict

from tqdm import tqdm

from shared.ahead import map_ahead
from shared.errors import JobStoppedError, RefusedInput
from shared.plan import PlannedInput, Unit, cut_units
from shared.signals import StopFlag
from vq_stage.images import read_size
from vq_stage.preprocess import Preprocessing
from vq_stage.sources import MediaItem, Source

Size = tuple[int, int]
REFUSED: Size = (0, 0)


def plan_units(
    source: Source,
    preprocessing: Preprocessing,
    unit_rows: int,
    readers: int,
    max_refused_in_a_row: int,
    stop: StopFlag,
) -> list[Unit]:
    """Cuts a source into units of at most `unit_rows` inputs of one target size, largest sizes first.

    Inputs refused here (unreadable header, duplicate key, …) make units of size 0 × 0 that hold no rows.
    Raises Interrupted once `stop` is set, and JobStoppedError if too many inputs in a row are refused: then it
    is the source that is broken.
    """

    def measure(item: MediaItem) -> tuple[MediaItem, Size]:
        if item.refusal is not None:
            return item, REFUSED
        try:
            return item, preprocessing.target_size(*read_size(source.path(item.uri)))
        except RefusedInput as refusal:
            return item.refused(refusal.reason, refusal.detail), REFUSED

    by_size: dict[Size, list[PlannedInput]] = defaultdict(list)
    in_a_row = 0
    measured = map_ahead(measure, source.items, readers, 64 * readers)
    for index, (item, size) in enumerate(tqdm(measured, "plan", len(source.items), unit="image", disable=None)):
        stop.raise_if_set("nothing was planned yet")
        reason, detail = item.refusal or (None, None)
        by_size[size].append(PlannedInput(index, item.key, item.uri, item.text, reason, detail))
        in_a_row = in_a_row + 1 if reason else 0
        if in_a_row > max_refused_in_a_row:
            raise JobStoppedError(
                f"{source.root}: more than {max_refused_in_a_row} inputs in a row refused, the last: {item.uri}:"
                f" {reason}: {detail}; nothing was planned; check the source or raise --max-refused-in-a-row"
            )
    return cut_units(by_size, unit_rows)
