"""The log of a training run: a JSON line a step, TensorBoard scalars, and the loss curve as a picture."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

from shared.storage.atomic import write_file


class TrainLog:
    """What a killed run wrote after its last checkpoint is dropped on resume."""

    def __init__(self, directory: Path, first_step: int):
        """`first_step` is how many steps are done."""
        self.path = directory / "train_log.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.entries: list[dict[str, Any]] = [entry for entry in map(json.loads, lines) if entry["step"] < first_step]
        self.before_s = self.entries[-1]["elapsed_s"] if self.entries else 0.0
        self.began = time.monotonic()
        self._scalars = directory / "tensorboard"
        self._written = len(self.entries)
        self._board: Any = None

    def add(self, **values: Any) -> None:
        elapsed_s = round(self.before_s + time.monotonic() - self.began, 2)
        self.entries.append({**values, "elapsed_s": elapsed_s})

    def flush(self) -> None:
        """Brings everything to the disk; to be called with a checkpoint."""
        write_file(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries).encode())
        self._write_scalars()

    def _write_scalars(self) -> None:
        """Without the library's thread, which a full disk would end: the next scalar would wait for it for ever."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        if self._board is None:
            self._scalars.mkdir(parents=True, exist_ok=True)
            self._board = EventsWriter(str(self._scalars / "events"), f".{os.getpid()}.{self._written}")
            if self._written:  # hides what a killed run wrote from here on
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

    def draw(self, path: Path, name: str = "loss") -> None:
        """A PNG of one value over the steps, with a running mean, and of what evaluations found."""
        from matplotlib.figure import Figure

        steps = [entry["step"] for entry in self.entries if name in entry]
        values = [entry[name] for entry in self.entries if name in entry]
        held_out = [(entry["step"], entry["held_out_loss"]) for entry in self.entries if "held_out_loss" in entry]
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, values, color="#9ecae1", linewidth=0.8, label=name)
        axes.plot(steps, _running_mean(values, max(1, len(values) // 50)), color="#08519c", label="running mean")
        if held_out:
            axes.plot(*zip(*held_out), "o-", color="#d94801", label="held out")
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        write_file(path, buffer.getvalue())


def _running_mean(values: list[float], window: int) -> list[float]:
    means = []
    for index in range(len(values)):
        part = values[max(0, index + 1 - window) : index + 1]
        means.append(sum(part) / len(part))
    return means
