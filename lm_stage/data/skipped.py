"""Samples that a run does not see: longer than a row, without an answer, and with `--skip-damaged` the damaged ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lm_stage.data.mixture import Mixture
from shared.storage.atomic import write_file


class LeftOut:
    """Damage is noted when it is met, in a file a process, so that none of it is lost to a kill."""

    def __init__(self, run: Path, rank: int, mixtures: Sequence[Mixture]):
        self.run, self.mixtures = run, mixtures
        self.path = run / f"damaged-{rank}.json"
        self.reasons: set[str] = set(json.loads(self.path.read_bytes())) if self.path.is_file() else set()

    def note_damage(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.add(reason)
            write_file(self.path, json.dumps(sorted(self.reasons)).encode())

    def damaged(self) -> list[str]:
        """What all processes have noted."""
        return sorted({reason for path in self.run.glob("damaged-*.json") for reason in json.loads(path.read_bytes())})

    def said(self) -> Iterator[str]:
        """A line for each dataset of which something is left out, or drawn without a caption."""
        for mixture in self.mixtures:
            for source, samples in zip(mixture.sources, mixture.samples):
                too_long, count = int((samples.lengths > mixture.row_length).sum()), len(samples.without_text)
                if too_long:
                    yield f"{source.path}: {too_long} samples are longer than a row of {mixture.row_length} tokens"
                if count and source.is_drawn:
                    yield f"{source.path}: {count} of {len(samples.keys)} samples have no caption: drawn without one"
                elif count:
                    yield f"{source.path}: {count} rows without an answer are left out"

    def write(self) -> None:
        """Lists all in `left_out.jsonl`."""
        lines = [
            {"dataset": path, "key": key, "reason": f"{length} tokens, a row has {mixture.row_length}"}
            for mixture in self.mixtures
            for path, key, length in mixture.too_long
        ]
        lines += [
            {"dataset": source.path, "key": key, "reason": "no answer"}
            for mixture in self.mixtures
            for source, samples in zip(mixture.sources, mixture.samples)
            if not source.is_drawn
            for key in samples.without_text
        ]
        lines += [{"reason": reason} for reason in self.damaged()]
        write_file(self.run / "left_out.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
