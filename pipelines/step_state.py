"""What there is to do for each step of a pipeline, told from what it was last run with.

That stands in `OUT/.pipeline/`: `STEP.json` with digests, and `STEP.files`, what its inputs held: a number a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.source import EMBEDDED_MODEL
from pipelines.pipeline import Pipeline
from pipelines.step import Step, maker_of
from shared.atomic import write_file
from shared.fingerprint import canonical_json, digest_of
from shared.storage import sha256_of
from vq_stage.sources import expanded
from vq_stage.weights import EMBEDDED_TOKENIZER

VERSIONS = ("emu3-relay", "mindspore")
READ_WHOLE = 64 << 20  # bytes of a single file up to which its content is compared, not its size and time


@dataclass(frozen=True, slots=True)
class StepState:
    """One step: `new`, `unfinished`, `done` (in so many seconds), `changed`, or `grown`.

    Grown is an encode step whose inputs hold more files and else what they held: its command takes those in.
    `settings` is the digest of arguments and versions, `digest` that of all, `files` what the inputs hold, sorted.
    """

    step: Step
    state: str
    digest: str = ""
    settings: str = ""
    files: np.ndarray | None = None
    seconds: float = 0.0


def plan_steps(pipeline: Pipeline, start_from: str | None = None) -> list[StepState]:
    """The state of every step; after `start_from` all are to be done again, unless a run with it was stopped."""
    states: list[StepState] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    if start_from == begun_from(pipeline):
        start_from = None  # what was to be done again has been set aside
    made = {step.name: step.output for step in pipeline.steps}
    embedded = [sha256_of(folder / "model.safetensors") for folder in (EMBEDDED_MODEL, EMBEDDED_TOKENIZER)]
    versions = {**{name: version(name) for name in VERSIONS}, "embedded": embedded}
    for step in pipeline.steps:
        settings = digest_of({"arguments": step.decisive, "versions": versions})
        files = _files_of([text for text in step.inputs if not maker_of(text, made)])
        content = hashlib.sha256(files.tobytes()).hexdigest()
        digest = digest_of({"settings": settings, "files": content, "needs": [digests[name] for name in step.needs]})
        digests[step.name] = digest
        recorded = _recorded(pipeline, step)
        is_there = step.output is None or step.output.exists()
        if not recorded:
            state = "new"
        elif step.name == start_from or stale & set(step.needs):
            state = "changed"
        elif recorded["digest"] == digest:
            state = "done" if recorded["done"] and is_there else "unfinished"
        else:
            is_same = step.command == "encode" and is_there and recorded["settings"] == settings
            state = "grown" if is_same and _holds(files, _recorded_files(pipeline, step)) else "changed"
        if state != "done":
            stale.add(step.name)
        states.append(StepState(step, state, digest, settings, files, (recorded or {}).get("seconds", 0.0)))
    return states


def note(pipeline: Pipeline, state: StepState, is_done: bool, seconds: float = 0.0) -> None:
    """Records with what a step is done, or is about to be."""
    described = {"digest": state.digest, "settings": state.settings, "done": is_done, "seconds": round(seconds, 1)}
    if state.files is not None and not is_done:
        write_file(_place(pipeline, state.step, "files"), state.files.tobytes())
    write_file(_place(pipeline, state.step, "json"), canonical_json(described).encode())


def begun_from(pipeline: Pipeline) -> str | None:
    """The step from which a run that was stopped was to do everything again."""
    path = pipeline.out / ".pipeline/from"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _place(pipeline: Pipeline, step: Step, suffix: str) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.{suffix}"


def _recorded(pipeline: Pipeline, step: Step) -> dict[str, Any] | None:
    try:
        recorded = json.loads(_place(pipeline, step, "json").read_bytes())
    except (OSError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) and {"digest", "settings", "done"} <= set(recorded) else None


def _recorded_files(pipeline: Pipeline, step: Step) -> np.ndarray | None:
    path = _place(pipeline, step, "files")
    return np.fromfile(path, np.uint64) if path.is_file() else None


def _holds(files: np.ndarray, others: np.ndarray | None) -> bool:
    return others is not None and bool(np.isin(others, files).all())


def _files_of(places: list[str]) -> np.ndarray:
    """uint64, sorted: a hash for every file there. Nothing remote is seen."""
    found = (one for place in places if "://" not in place and place != "-" for one in _hashes(place))
    return np.sort(np.fromiter(found, np.uint64))


def _hashes(place: str) -> Iterator[int]:
    """Of the name, size and time of every file of a folder or pattern; of one small file by itself, of its content."""
    path = Path(place)
    if path.is_file() and path.stat().st_size <= READ_WHOLE:
        yield _hash(place, sha256_of(path))
    elif path.is_dir():
        for root, _, names in os.walk(path):
            for name in names:
                yield _hash(os.path.relpath(os.path.join(root, name), path), *_size_and_time(os.path.join(root, name)))
    else:
        for file in [path] if path.is_file() else expanded(place):
            yield _hash(str(file), *_size_and_time(file))


def _hash(*described: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(described).encode(), digest_size=8).digest(), "little")


def _size_and_time(file: str | Path) -> tuple[int, ...]:
    """Nothing for a link that leads nowhere."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns
