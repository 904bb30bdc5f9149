"""A worker whose units hold refused prompts only, so that it needs no model in memory."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.worker import GenerateWorker
from shared.dataset.dataset import Dataset
from shared.jobs.job import Task, WorkerContext
from tests.support.prompts import write_entries


def test_a_task_for_a_subset_of_refused_prompts_commits_nothing(
    small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_entries(tmp_path / "p.jsonl", [{"prompt": ""}, {"prompt": " "}])
    options = GenerateOptions(str(prompts), str(tmp_path / "tokens"), model=str(small_lm))
    assert generate(options).quarantined == 2
    committed: list[Any] = []
    monkeypatch.setattr(Dataset, "commit", lambda dataset, result, plan: committed.append(result.unit))
    worker = GenerateWorker(options, WorkerContext(Event()))  # type: ignore[arg-type]
    tasks = [Task(0, subset=(0,)), Task(0, subset=(1,)), Task(0)]
    assert [result.quarantined for result in worker.work(iter(tasks))] == [2, 2, 2]
    assert committed == [0]
