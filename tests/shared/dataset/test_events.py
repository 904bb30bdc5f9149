"""The progress log."""

from __future__ import annotations

from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.dataset.events import EventLog


def test_events_come_back_in_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert list(log.read()) == []
    log.append(event="start", note="ü")
    log.append_unit(7, rows=3, elapsed_s=1.23456)
    first, second = log.read()
    assert first == {"event": "start", "note": "ü"}
    assert second.pop("time") > 0
    assert second == {"event": "unit", "unit": 7, "rows": 3, "elapsed_s": 1.235}


def test_incomplete_lines_are_skipped(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(n=1)
    with log.path.open("ab") as file:
        file.write(b'{"n": 2\n[3]\n\xff\n')
    log.append(n=4)
    assert list(log.read()) == [{"n": 1}, {"n": 4}]


def test_remote_datasets_have_no_log() -> None:
    dataset = Dataset("memory://events")
    dataset.events.append(n=1)
    assert list(dataset.events.read()) == []


def test_lines_that_no_job_writes_are_skipped(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.path.write_bytes(b"[" * 100_000 + b"\n" + b'{"n": ' + b"9" * 5000 + b"}\n" + b"x" * 200_000 + b"\n")
    log.append(n=1)
    assert list(log.read()) == [{"n": 1}]
