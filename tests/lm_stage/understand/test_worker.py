"""A worker over a stand-in model: how often it renders a question."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from lm_stage.inference.options import SamplingOptions
from lm_stage.model.checksums import write_model_directory
from lm_stage.text.prompting import PLAIN
from lm_stage.understand.answer_file import Answer
from lm_stage.understand.options import UnderstandOptions
from lm_stage.understand.questions import Question, QuestionRenderer, list_questions
from lm_stage.understand.worker import UnderstandWorker
from shared.errors import CheckpointError
from shared.jobs.job import Task, TaskResult, WorkerContext
from tests.support.prompts import write_entries


class CountingGenerator:
    """Completes one answer every tenth step, in the order in which they were added."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.running: list[Any] = []
        self.steps = 0

    @property
    def is_full(self) -> bool:
        return len(self.running) == self.batch_size

    def add(self, request: Any) -> None:
        self.running.append(request)

    def step(self) -> list[Any]:
        self.steps += 1
        return [Answered(self.running.pop(0))] if self.steps % 10 == 0 else []


class Answered:
    finish_reason = "eos"
    token_ids = (0,)

    def __init__(self, request: Any):
        self.request = request

    def text_ids(self) -> list[int]:
        return []


class StandInModel:
    def text_generator(self, batch_size: int, length: int, sampling: SamplingOptions) -> CountingGenerator:
        assert (sampling.top_k, sampling.top_p) == (PLAIN.text.top_k, PLAIN.text.top_p), "sampling is not resolved"
        return CountingGenerator(batch_size)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    request = QuestionRenderer.request

    def counting(renderer: QuestionRenderer, question: Question) -> Any:
        counts[question.key] += 1
        return request(renderer, question)

    monkeypatch.setattr(QuestionRenderer, "request", counting)
    monkeypatch.setattr("lm_stage.language_model.LanguageModel.for_job", lambda *arguments: StandInModel())
    return counts


def results(options: UnderstandOptions, tasks: Iterator[Task | None]) -> list[TaskResult]:
    questions = list_questions(None, options.questions, None)
    return list(UnderstandWorker(options, questions, WorkerContext(Event())).work(tasks))  # type: ignore[arg-type]


def test_every_question_is_rendered_once(rendered: Counter[str], small_lm: Path, tmp_path: Path) -> None:
    """The third is longer, so it is held back while the first two are answered, twenty steps."""
    texts = ["a", "b", "long " * 40, "c"]
    path = write_entries(tmp_path / "q.jsonl", [{"question": text} for text in texts])
    options = UnderstandOptions(None, "", questions=str(path), model=str(small_lm), max_new_tokens=8, batch_size=4)
    done = results(options, iter([Task(unit) for unit in range(4)]))
    assert [result.task.unit for result in done] == [0, 1, 2, 3]
    assert rendered == {f"{number:06d}": 1 for number in range(1, 5)}


def test_a_question_that_killed_workers_is_refused(rendered: Counter[str], small_lm: Path, tmp_path: Path) -> None:
    path = write_entries(tmp_path / "q.jsonl", [{"question": "a"}, {"question": "b"}])
    options = UnderstandOptions(None, "", questions=str(path), model=str(small_lm))
    died, answered = results(options, iter([Task(0, poison=(0,)), Task(1)]))
    assert died.quarantined == 1
    assert isinstance(died.payload, Answer)
    assert json.loads(died.payload.to_line())["error"].startswith("worker_died: ")
    assert isinstance(answered.payload, Answer)
    assert answered.payload.error is None


def test_a_worker_verifies_the_model_that_it_loads(small_lm: Path, tmp_path: Path) -> None:
    """A worker may be restarted days after its job has verified the model."""
    files = {path.name: path.read_bytes() for path in small_lm.iterdir()}
    write_model_directory(tmp_path / "model", files)
    (tmp_path / "model/model.safetensors").write_bytes(files["model.safetensors"][:-1] + b"\xff")
    path = write_entries(tmp_path / "q.jsonl", [{"question": "a"}])
    options = UnderstandOptions(None, "", questions=str(path), model=str(tmp_path / "model"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        results(options, iter([]))
