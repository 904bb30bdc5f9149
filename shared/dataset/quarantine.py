"""Inputs that a job refused, one JSON line per input, beside the part of their unit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.storage.digests import canonical_json


@dataclass(frozen=True, slots=True)
class Refusal:
    """An input in quarantine: which one, a reason code, and what was found."""

    key: str
    src_index: int
    uri: str
    reason: str
    detail: str


def dump_refusals(refusals: Iterable[Refusal]) -> bytes:
    return "".join(canonical_json(asdict(refusal)) + "\n" for refusal in refusals).encode()


def load_refusals(path: Path) -> list[Refusal]:
    # Not splitlines(), which also splits at the line separators of Unicode that a detail may contain.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Refusal(**json.loads(line)) for line in lines if line]
