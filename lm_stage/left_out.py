"""Samples that a run does not train on: those longer than a row, and with `--skip-damaged` the damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

from lm_stage.training_data import Mixture
from shared.atomic import write_file


class LeftOut:
    """Damage is noted when it is met, in a file a process, so that none of it is lost to a kill."""

    def __init__(self, run: Path, rank: int, mixture: Mixture):
        self.run, self.mixture = run, mixture
        self.path = run / f"damaged-{rank}.json"
        self.reasons: set[str] = set(json.loads(self.path.read_bytes())) if self.path.is_file() else set()

    def note_damage(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.add(reason)
            write_file(self.path, json.dumps(sorted(self.reasons)).encode())

    def damaged(self) -> list[str]:
        """What all processes have noted."""
        return sorted({reason for path in self.run.glob("damaged-*.json") for reason in json.loads(path.read_bytes())})

    def write(self) -> None:
        """Lists all in `left_out.jsonl`."""
        lines = [
            {"dataset": path, "key": key, "reason": f"{length} tokens, a row has {self.mixture.row_length}"}
            for path, key, length in self.mixture.too_long
        ]
        lines += [{"reason": reason} for reason in self.damaged()]
        write_file(self.run / "left_out.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
