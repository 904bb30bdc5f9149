"""The log of a training run: a JSON line for each step, TensorBoard scalars, and a plot of the loss."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared.errors import UsageError
from shared.storage.atomic import write_file
from shared.storage.small_files import parse_json_object, read_small_file

MAX_LOG_BYTES = 4 << 30


class TrainLog:
    """The entries of all steps; those after the last checkpoint are dropped on resume.

    `first_step` is the first step that this run computes.
    """

    def __init__(self, directory: Path, first_step: int):
        self.path = directory / "train_log.jsonl"
        self.entries = [entry for entry in self._read() if entry["step"] < first_step]
        self._earlier_s = self.entries[-1]["elapsed_s"] if self.entries else 0.0
        self._start = time.monotonic()
        self._scalars = directory / "tensorboard"
        self._written = len(self.entries)
        self._board: Any = None

    def _read(self) -> list[dict[str, Any]]:
        """Return the entries on disk. Damaged lines are removed from the log; a copy of the file keeps them."""
        if not self.path.exists():
            return []
        content = read_small_file(self.path, MAX_LOG_BYTES)
        lines = [line for line in content.split(b"\n") if line.strip()]
        entries = [_entry(line) for line in lines]
        intact = [entry for entry in entries if entry is not None]
        if len(intact) < len(entries):
            copy = self.path.with_name(f"damaged-{self.path.name}")
            write_file(copy, (copy.read_bytes() if copy.exists() else b"") + content)
            write_file(self.path, b"".join(line + b"\n" for line, entry in zip(lines, entries) if entry is not None))
            lost = len(entries) - len(intact)
            tqdm.write(f"{self.path}: {lost} damaged lines are removed; {copy} still has them", file=sys.stderr)
        return intact

    def add(self, **values: Any) -> None:
        """Add the entry of a step; `elapsed_s` counts the time of all runs up to the entry."""
        elapsed_s = round(self._earlier_s + time.monotonic() - self._start, 2)
        self.entries.append({**values, "elapsed_s": elapsed_s})

    def flush(self) -> None:
        """Write all entries to disk. Call this before a checkpoint is written."""
        write_file(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries).encode())
        self._write_scalars()

    def _write_scalars(self) -> None:
        """Write new scalars without the library's thread: a full disk ends it, and the next scalar waits forever."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        if self._board is None:
            self._scalars.mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(self._scalars / "events"), f".{os.getpid()}.{self._written}")
            if self._written:  # hides what a killed run wrote after this step
                start = SessionLog(status=SessionLog.START)
                self._board.write_event(Event(step=self._written, wall_time=time.time(), session_log=start))
        for entry in self.entries[self._written :]:
            for name, value in entry.items():
                if name != "step" and isinstance(value, (int, float)):
                    summary = scalar(name, value)
                    self._board.write_event(Event(step=entry["step"], wall_time=time.time(), summary=summary))
        self._board.flush()
        self._written = len(self.entries)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def draw(self, path: Path) -> None:
        """Write a PNG that plots the loss over the steps, its running mean, and the held-out loss."""
        from matplotlib.figure import Figure

        steps = [entry["step"] for entry in self.entries if "loss" in entry]
        losses = [entry["loss"] for entry in self.entries if "loss" in entry]
        held_out = [(entry["step"], entry["held_out_loss"]) for entry in self.entries if "held_out_loss" in entry]
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="loss")
        axes.plot(steps, _running_mean(losses, max(1, len(losses) // 50)), color="#08519c", label="running mean")
        if held_out:
            axes.plot(*zip(*held_out), "o-", color="#d94801", label="held out")
        axes.set(xlabel="step", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        write_file(path, buffer.getvalue())


def _entry(line: bytes) -> dict[str, Any] | None:
    """Parse a line; return None if it is damaged."""
    try:
        entry = parse_json_object(line, "entry")
    except UsageError:
        return None
    numbers = [entry.get("step"), *entry.values()]
    is_intact = all(isinstance(value, int | float) for value in numbers) and isinstance(
        entry.get("elapsed_s"), float | int
    )
    return entry if is_intact else None


def _running_mean(values: list[float], window: int) -> list[float]:
    """Return, for each value, the mean of it and up to `window - 1` values before it."""
    parts = (values[max(0, end - window) : end] for end in range(1, len(values) + 1))
    return [sum(part) / len(part) for part in parts]
