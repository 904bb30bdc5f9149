"""What is finished of one unit while it is being encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.dataset.commit import UnitResult
from shared.dataset.plan import Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from vq_stage.encode.input_reader import PreparedInput
from vq_stage.encode.metrics import reconstruction_quality


class UnitWork:
    """Records, refusals and quality samples of a unit, in the order in which they were finished.

    `quality_samples` inputs, spread evenly over the unit, are to be decoded again and compared.
    """

    def __init__(self, unit: Unit, quality_samples: int):
        self.unit = unit
        self.records: dict[int, CodeRecord] = {}
        self.refusals: list[Refusal] = []
        self.quality: list[Mapping[str, Any]] = []
        count, samples = len(unit.inputs), min(len(unit.inputs), quality_samples)
        self._sampled = {unit.inputs[index * count // samples].src_index for index in range(samples)}

    def restore(self, partial: UnitResult) -> None:
        """Continue with what an interrupted job had finished."""
        self.quality = list(partial.quality)
        self.records = {record.src_index: record for record in partial.records}

    def has_record(self, prepared: PreparedInput) -> bool:
        return prepared.planned.src_index in self.records

    def is_sampled(self, prepared: PreparedInput) -> bool:
        """Return whether the quality of this input is to be measured."""
        return prepared.planned.src_index in self._sampled

    def add(self, prepared: PreparedInput, codes_THW: np.ndarray) -> None:
        self.records[prepared.planned.src_index] = prepared.record(codes_THW)

    def add_quality(self, prepared: PreparedInput, decoded: np.ndarray) -> None:
        """Compare an input with what its codes decode to."""
        self.quality.append({"key": prepared.planned.key, **reconstruction_quality(prepared.pixels, decoded)})

    def result(self, numerics: Mapping[str, Any]) -> UnitResult:
        """Return everything in the order of the unit's inputs, so that the bytes do not depend on the order of work."""
        order = {planned.key: index for index, planned in enumerate(self.unit.inputs)}
        return UnitResult(
            self.unit.unit,
            records=[self.records[index] for index in sorted(self.records)],
            refusals=sorted(self.refusals, key=lambda refusal: refusal.src_index),
            numerics=numerics,
            quality=sorted(self.quality, key=lambda sample: order[sample["key"]]),
        )
