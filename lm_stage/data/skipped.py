"""Samples that a run does not train on: longer than a row, without an answer, or damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_stage.data.mixture import Mixture
from shared.errors import UsageError
from shared.storage.atomic import write_file
from shared.storage.small_files import parse_json, read_small_file

LEFT_OUT = "left_out.jsonl"


class SkippedSamples:
    """Collects skipped samples and lists them in `left_out.jsonl`.

    Each process records damage in a file of its own as soon as it is found, so that a killed run keeps it.
    """

    def __init__(self, run: Path, rank: int, mixtures: Sequence[Mixture]):
        self.run, self.mixtures = run, mixtures
        self.path = run / f"damaged-{rank}.json"
        self.reasons = set(_reasons(self.path)) if self.path.exists() else set()

    def add_damaged(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.add(reason)
            write_file(self.path, json.dumps(sorted(self.reasons)).encode())

    def damaged(self) -> list[str]:
        """Return the damage that all processes recorded."""
        return sorted({reason for path in self.run.glob("damaged-[0-9]*.json") for reason in _reasons(path)})

    @property
    def too_long(self) -> int:
        """The number of samples longer than a row."""
        return sum(len(mixture.too_long) for mixture in self.mixtures)

    def summary(self) -> Iterator[str]:
        """Yield a line for each dataset with skipped samples, or with images generated without a caption."""
        for mixture in self.mixtures:
            for entry, samples in mixture.pairs():
                too_long = int((samples.lengths > mixture.seq_length).sum())
                if samples.unusable:
                    key, reason = samples.unusable[0]
                    count = len(samples.unusable)
                    yield f"{entry.path}: {count} samples cannot be used: {key}: {reason}"
                if too_long:
                    yield f"{entry.path}: {too_long} samples are longer than a row of {mixture.seq_length} tokens"
                count = len(samples.without_text)
                if count and entry.is_generation:
                    yield f"{entry.path}: {count} of {len(samples.keys)} samples have no caption: trained without one"
                elif count:
                    yield f"{entry.path}: {count} rows without an answer are skipped"

    def write(self) -> None:
        """Write `left_out.jsonl`."""
        lines = [*self._too_long(), *self._without_answer(), *({"reason": reason} for reason in self.damaged())]
        write_file(self.run / LEFT_OUT, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _too_long(self) -> Iterator[dict[str, Any]]:
        for mixture in self.mixtures:
            for path, key, length in mixture.too_long:
                yield {"dataset": path, "key": key, "reason": f"{length} tokens, a row has {mixture.seq_length}"}

    def _without_answer(self) -> Iterator[dict[str, Any]]:
        for mixture in self.mixtures:
            for entry, samples in mixture.pairs():
                for key in () if entry.is_generation else samples.without_text:
                    yield {"dataset": entry.path, "key": key, "reason": "no answer"}
                for key, reason in samples.unusable:
                    yield {"dataset": entry.path, "key": key, "reason": reason}


def _reasons(path: Path) -> list[str]:
    """Return the recorded reasons. A file that is itself damaged counts as one; what it held is found again."""
    try:
        reasons = parse_json(read_small_file(path), str(path))
    except UsageError as error:
        return [str(error)]
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else [f"{path}: expected a list of reasons"]
