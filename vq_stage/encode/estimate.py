"""A forecast of an encode job, from the headers of its inputs only, without a model."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, Size
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.settings import CODES_FORMAT, DatasetSettings
from shared.errors import UsageError
from shared.jobs.signals import stop_on_signals
from shared.tokens.sequence_form import SequenceForm
from vq_stage.encode.planner import Planner

BYTES_PER_ROW = 150  # key, path, checksums and so on, besides codes and caption
TEXT_BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """A forecast of what an encode job would read and write.

    `inputs` counts all inputs, `sizes` those of each size (frames, height, width in pixels), `quarantined` those of
    each reason. `sequence_lengths` are the lengths of SFT sequences in tokens, int64 (rows,): exact except for the
    caption and the text around it, which are counted as four bytes per token.
    """

    inputs: int
    sizes: Mapping[Size, int]
    quarantined: Mapping[str, int]
    captions: int
    units: int
    codes: int
    megapixels: float
    bytes: int
    sequence_lengths: np.ndarray

    @property
    def rows(self) -> int:
        return sum(self.sizes.values())

    @property
    def compiles(self) -> int:
        """The number of graphs to compile: one per height and width, for images and for clips of any length."""
        return len({(frames > 1, height, width) for frames, height, width in self.sizes})

    def device_hours(self, megapixels_per_s: float) -> float:
        return self.megapixels / megapixels_per_s / 3600


def forecast(planner: Planner, form: SequenceForm) -> Forecast:
    """Plan the whole source into a temporary file; `form` is that of SFT sequences. Raises what planning raises."""
    with tempfile.TemporaryDirectory(prefix="emu3-plan-") as folder, stop_on_signals() as stop:
        path = Path(folder) / "plan.arrow"
        with PlanWriter(planner.options.unit_rows) as writer:
            planner.plan_all(writer, stop)
            writer.freeze(path, DatasetSettings(planner.codec))
        return _summary_of(Plan(path), form)


def _summary_of(plan: Plan, form: SequenceForm) -> Forecast:
    codec, template_bytes = plan.settings.codec, len(form.template.encode())
    sizes: Counter[Size] = Counter()
    quarantined: Counter[str] = Counter()
    captions = text_bytes = 0
    lengths = [np.zeros(0, np.int64)]
    for number in range(len(plan)):
        unit = plan.unit(number)
        if not unit.height:
            quarantined.update(planned.refused_reason or "" for planned in unit.inputs)
            continue
        sizes[unit.size] += len(unit.inputs)
        texts = np.array([len((planned.text or "").encode()) for planned in unit.inputs], np.int64)
        captions += sum(planned.text is not None for planned in unit.inputs)
        text_bytes += int(texts.sum())
        text_tokens = np.ceil((template_bytes + texts) / TEXT_BYTES_PER_TOKEN).astype(np.int64)
        lengths.append(text_tokens + sequence_length(unit.size, codec, form))
    rows = sum(sizes.values())
    codes = sum(count * int(np.prod(grid(size, codec))) for size, count in sizes.items())
    return Forecast(
        inputs=plan.input_count,
        sizes=dict(sizes.most_common()),
        quarantined=dict(quarantined.most_common()),
        captions=captions,
        units=len(plan),
        codes=codes,
        megapixels=sum(count * int(np.prod(size)) for size, count in sizes.items()) / 1e6,
        bytes=codes * np.dtype(codec.code_dtype).itemsize + rows * BYTES_PER_ROW + text_bytes,
        sequence_lengths=np.concatenate(lengths),
    )


def grid(size: Size, codec: Codec) -> tuple[int, int, int]:
    """Return the size in codes (t, h, w) of a size in pixels."""
    frames, height, width = size
    return max(1, frames // codec.temporal_factor), height // codec.spatial_factor, width // codec.spatial_factor


def sequence_length(size: Size, codec: Codec, form: SequenceForm) -> int:
    """Return the tokens of a text-to-image or text-to-video sequence of this size in pixels, without those of text."""
    return form.length(size[0] > 1, *grid(size, codec))


def known_megapixels_per_s(given: float | None, measured_in: str | None) -> float | None:
    """Return the rate that is given, or that of the jobs that encoded the dataset `measured_in`, None if neither is.

    Raises UsageError for a rate that is not positive, and for a dataset of another command.
    """
    if given is not None and not 0 < given < math.inf:
        raise UsageError(f"--megapixels-per-s {given}: expected a number above 0")
    if given is not None or measured_in is None:
        return given
    dataset = Dataset.open(measured_in)
    if (found := dataset.plan().settings.format) != CODES_FORMAT:
        raise UsageError(f"--measured-in {measured_in}: expected a dataset that `emu3 encode` wrote, found {found}")
    return measured_megapixels_per_s(dataset)


def measured_megapixels_per_s(dataset: Dataset) -> float | None:
    """Return the rate of the jobs that encoded a dataset, from its event log; None if that has no units."""
    seconds = {event["unit"]: event["elapsed_s"] for event in dataset.events.read() if event.get("event") == "unit"}
    done = [record for record in dataset.commit_records() if record.unit in seconds and record.rows]
    codec = dataset.plan().settings.codec
    frames = (codec.temporal_factor if record.frames > 1 else 1 for record in done)
    pixels = sum(record.codes * codec.spatial_factor**2 * count for record, count in zip(done, frames))
    elapsed_s = sum(seconds[record.unit] for record in done)
    return pixels / 1e6 / elapsed_s if elapsed_s else None
