"""Decoded answers of text and images, embedded into the report page of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.report.media import MAX_CARDS, Answer, Card, Figure, Section, compressed, finished_steps
from pipelines.workflow.pipeline import Pipeline
from shared.dataset.dataset import Dataset
from shared.dataset.settings import ANSWER_FORMAT
from vq_stage.decode.output_files import PICTURES, picture_path


def answer_sections(pipeline: Pipeline) -> Iterator[Section]:
    """Yield a section for each decode step of answers, with a card per answer."""
    for step, output in finished_steps(pipeline, "decode"):
        dataset = Dataset.open(step.location("dataset") or "")
        if dataset.plan().settings.format == ANSWER_FORMAT:
            cards = tuple(_card(step.name, row, output) for row in islice(_rows(dataset), MAX_CARDS))
            yield Section("Answers", "text and pictures, decoded from tokens", 360, cards)


def _rows(dataset: Dataset) -> Iterator[Mapping[str, Any]]:
    for record in dataset.commit_records():
        for batch in dataset.batches(record):
            yield from batch.select(["key", "text", "parts"]).to_pylist()


def _card(step: str, row: Mapping[str, Any], output: Path) -> Card:
    """Return the card of an answer: each picture with the text before it, and the text after the last one.

    Reasoning is left out; the page of the answer has it, folded.
    """
    figures: list[Figure] = []
    texts: list[str] = []
    pictures = _pictures(output, row["key"])
    for part in row["parts"]:
        if part["kind"] == "text":
            texts.append(part["text"])
        elif part["kind"] == "image" and len(figures) < len(pictures):
            label = " ".join(text.strip() for text in texts)
            figures.append(Figure(label, compressed(pictures[len(figures)]), label))
            texts.clear()
    rest = " ".join(text.strip() for text in texts)
    return Card(row["text"] or row["key"], tuple(figures), (Answer(step, rest),) if rest else ())


def _pictures(output: Path, key: str) -> Sequence[Path]:
    """Return the pictures of an answer in their order."""
    folder = picture_path(output, key, PICTURES)
    return sorted(folder.iterdir()) if folder.is_dir() else []
