"""Pictures and videos of a run, embedded into its report page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.step import Step
from shared.dataset.dataset import Dataset
from shared.storage.paths import as_path
from vq_stage.decode.output_files import picture_path
from vq_stage.media.image_decoding import open_image

MAX_CARDS = 48
MAX_ROWS = 10_000  # rows of a dataset from which the cards are chosen
MAX_VIDEO_BYTES = 8_000_000
PICTURE_SUFFIXES = (".png", ".jpg", ".webp")
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".png": "image/png",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture or video with what is written below it: the step that made it, or the text before it."""

    label: str
    data_url: str
    alt: str

    @property
    def is_video(self) -> bool:
        return self.data_url.startswith("data:video/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered about a picture, and the step that asked."""

    step: str
    text: str


@dataclass(frozen=True, slots=True)
class Card:
    """One row of a dataset: its caption, a figure per decode step, the answers about it."""

    caption: str
    figures: tuple[Figure, ...]
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with cards; `card_width` is the least width of a card in CSS pixels."""

    title: str
    subtitle: str
    card_width: int
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of a dataset's row that the page shows."""

    key: str
    kind: str
    text: str | None
    src_uri: str

    @property
    def caption(self) -> str:
        return self.text or self.key


def heading(step: str) -> str:
    """Return the name of a step as people read it."""
    return step.replace("_", " ")


def finished_steps(pipeline: Pipeline, command: str) -> list[tuple[Step, Path]]:
    """Steps of one command that have an output, with that output."""
    return [
        (step, step.output)
        for step in pipeline.steps
        if step.command == command and step.output is not None and step.output.exists()
    ]


def picture_sections(pipeline: Pipeline) -> Iterator[Section]:
    """Yield a section for the decode steps that have keys in common, such as a picture before and after training.

    It has a card per key: its caption, the picture of each of these steps, and the answers about it.
    """
    decodes = finished_steps(pipeline, "decode")
    answers = {step.name: read_answers(output) for step, output in finished_steps(pipeline, "understand")}
    while decodes:
        rows = _decoded_images(*decodes[0])
        columns = [(step, output) for step, output in decodes if any(_picture_file(output, row) for row in rows)]
        if section := _picture_section(rows, columns, answers):
            yield section
        decodes = [one for one in decodes[1:] if one not in columns]


def _picture_section(
    rows: list[Row], columns: list[tuple[Step, Path]], answers: dict[str, dict[str, str]]
) -> Section | None:
    rows = [row for row in rows if all(_picture_file(output, row) for _, output in columns)]
    if not rows:
        return None
    shown = rows[:: max(1, -(-len(rows) // MAX_CARDS))]
    total = f"the first {MAX_ROWS}" if len(rows) == MAX_ROWS else str(len(rows))
    cards = tuple(_picture_card(row, columns, answers) for row in shown)
    return Section("Pictures", f"{len(shown)} of {total}, decoded from tokens", 120 * len(columns) + 40, cards)


def _picture_card(row: Row, columns: list[tuple[Step, Path]], answers: dict[str, dict[str, str]]) -> Card:
    figures = tuple(
        Figure(heading(step.name), compressed(path), row.caption)
        for step, output in columns
        if (path := _picture_file(output, row))
    )
    found = tuple(Answer(name, texts[row.key]) for name, texts in answers.items() if row.key in texts)
    return Card(row.caption, figures, found)


def clip_sections(pipeline: Pipeline) -> Iterator[Section]:
    """Yield a section with a card per video: its source, if a browser can play that, beside the decoded one."""
    sources = {str(output): step.location("source") or "" for step, output in finished_steps(pipeline, "encode")}
    cards = []
    for step, output in finished_steps(pipeline, "decode"):
        dataset = step.location("dataset") or ""
        for row in islice((row for row in read_rows(dataset) if row.kind == "video"), MAX_CARDS):
            files = {step.name: _decoded_file(output, row, MEDIA_TYPES)}
            if dataset in sources:
                files = {"source": as_path(sources[dataset]) / row.src_uri, **files}
            figures = (
                Figure(heading(name), data_url(path), "a clip")
                for name, path in files.items()
                if path is not None and _is_playable(path)
            )
            cards.append(Card(row.caption, tuple(figures)))
    if cards:
        yield Section("Clips", "videos, encoded and decoded", 360, tuple(cards))


def read_rows(location: Path | str) -> Iterator[Row]:
    """The first MAX_ROWS rows of a dataset."""
    dataset = Dataset.open(str(location))
    batches = (dataset.texts.apply(batch) for record in dataset.commit_records() for batch in dataset.batches(record))
    columns = ([batch[name].to_pylist() for name in ("key", "kind", "text", "src_uri")] for batch in batches)
    return islice((Row(*values) for one in columns for values in zip(*one)), MAX_ROWS)


def read_answers(path: Path) -> dict[str, str]:
    """Answers of an `understand` step by key; the error where there is no answer."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return {entry["key"]: entry["answer"] or entry["error"] or "" for entry in entries}


def _decoded_images(step: Step, output: Path) -> list[Row]:
    """Image rows of the dataset of a decode step for which a picture exists."""
    rows = read_rows(step.location("dataset") or "")
    return [row for row in rows if row.kind == "image" and _picture_file(output, row)]


def _picture_file(output: Path, row: Row) -> Path | None:
    return _decoded_file(output, row, PICTURE_SUFFIXES)


def _decoded_file(output: Path, row: Row, suffixes: Iterable[str]) -> Path | None:
    """The file that a decode step wrote for a row, if it has one of the suffixes."""
    paths = (picture_path(output, row.key, suffix.removeprefix(".")) for suffix in suffixes)
    return next((path for path in paths if path.is_file()), None)


def _is_playable(path: Path) -> bool:
    return path.suffix in MEDIA_TYPES and path.is_file() and path.stat().st_size <= MAX_VIDEO_BYTES


def data_url(path: Path) -> str:
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def compressed(path: Path) -> str:
    """A picture as a WebP data URL."""
    buffer = io.BytesIO()
    with path.open("rb") as file, open_image(file) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
