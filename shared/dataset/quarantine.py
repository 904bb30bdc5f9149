"""Inputs that a job refused, one JSON line per input, beside the part of their unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.errors import DatasetError
from shared.storage.checked_json import field_problem
from shared.storage.digests import canonical_json
from shared.storage.small_files import parse_json_object, read_small_file

_MAX_BYTES = 1 << 30


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
    """Read a file. Raises DatasetError, naming the line, if it is missing or damaged."""
    # Not splitlines(), which also splits at other bytes.
    lines = read_small_file(path, _MAX_BYTES, DatasetError).split(b"\n")
    return [_refusal(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line]


def _refusal(line: bytes, where: str) -> Refusal:
    try:
        refusal = Refusal(**parse_json_object(line, where, DatasetError))
    except TypeError as error:
        raise DatasetError(f"{where}: expected a refused input: {error}; run `emu3 verify`") from error
    if problem := field_problem(refusal):
        raise DatasetError(f"{where}: expected a refused input: {problem}; run `emu3 verify`")
    return refusal
