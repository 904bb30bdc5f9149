"""One self-contained page about a pipeline's run: pictures beside their captions, the loss curve, figures, steps.

Only reads what the steps wrote; no model is loaded and the page needs no network.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipelines.workflow.file import Pipeline
from pipelines.workflow.state import StepState
from pipelines.workflow.step import Step
from shared.dataset.dataset import Dataset
from shared.maintenance.summary import summarize
from shared.storage.atomic import write_file
from shared.storage.paths import as_path
from vq_stage.decode.output_files import picture_path

MAX_CARDS = 48
MOST_ROWS = 10_000  # of a dataset, among which what is shown is chosen
MAX_BYTES = 8_000_000  # of a video within the page
PICTURES = (".png", ".jpg", ".webp")
PLAYED = {".mp4": "video/mp4", ".webm": "video/webm", ".webp": "image/webp", ".gif": "image/gif", ".png": "image/png"}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667085; --line: #e4e7ec; --card: #fff; --page: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --dim: #98a2b3; --line: #2c323a; --card: #1c2128; --page: #14181d; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 40px 24px 80px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 30px; margin: 0 } h2 { font-size: 20px; margin: 48px 0 12px } p { color: var(--dim); margin: 4px 0 }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(var(--wide), 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px }
.card b { display: block; min-height: 45px; font-weight: 600 }
.shots { display: flex; gap: 8px; margin: 8px 0 } figure { margin: 0; flex: 1; min-width: 0; text-align: center }
img, video { width: 100%; border-radius: 6px; background: #fff; image-rendering: auto; display: block }
figcaption { color: var(--dim); font-size: 12px; margin-top: 3px }
.curve { max-width: 820px; border: 1px solid var(--line) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line) }
td, th { padding: 7px 12px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
code { font-size: 12.5px; color: var(--dim); overflow-wrap: anywhere }
"""


def write_report(pipeline: Pipeline, done: Sequence[tuple[StepState, float]], path: Path) -> None:
    """Writes the page; `done` are the steps of this run with their seconds."""
    sections = [_cards(pipeline), _clips(pipeline), _curves(pipeline), _figures(pipeline), _steps(done)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    versions = f"emu3-relay {version('emu3-relay')}, MindSpore {version('mindspore')}"
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(pipeline.name)}</title><style>{STYLE}</style>"
        f"<h1>{escape(pipeline.name)}</h1><p>{escape(machine)}; {escape(versions)}</p>{''.join(sections)}</html>"
    )
    write_file(path, page.encode())


def _steps_of(pipeline: Pipeline, command: str) -> list[Step]:
    return [step for step in pipeline.steps if step.command == command and step.output and step.output.exists()]


def _cards(pipeline: Pipeline) -> str:
    """A card a key: its caption, the picture of every decode step, what the model said of it."""
    decodes = _steps_of(pipeline, "decode")
    answers = {step.name: _answers(step.output) for step in _steps_of(pipeline, "understand") if step.output}
    rows = next((found for step in decodes if (found := _images(step))), [])
    columns = [step for step in decodes if any(_file(step, row.key, PICTURES) for row in rows)]
    rows = [row for row in rows if all(_file(step, row.key, PICTURES) for step in columns)]
    if not rows:
        return ""
    shown = rows[:: max(1, -(-len(rows) // MAX_CARDS))]
    cards = []
    for row in shown:
        caption = row.text or row.key
        shots = "".join(
            f"<figure><img src='{_inline(path)}' alt='{escape(caption, quote=True)}'>"
            f"<figcaption>{escape(step.name.replace('_', ' '))}</figcaption></figure>"
            for step in columns
            if (path := _file(step, row.key, PICTURES))
        )
        said = "".join(
            f"<p>{escape(name.replace('_', ' '))}: “{escape(found[row.key])}”</p>"
            for name, found in answers.items()
            if row.key in found
        )
        cards.append(f"<div class=card><b>{escape(caption)}</b><div class=shots>{shots}</div>{said}</div>")
    of = f"the first {MOST_ROWS}" if len(rows) == MOST_ROWS else str(len(rows))
    heading = f"<h2>Pictures</h2><p>{len(shown)} of {of}, decoded from tokens</p>"
    return f"{heading}<div class=cards style='--wide: {120 * len(columns) + 40}px'>{''.join(cards)}</div>"


def _clips(pipeline: Pipeline) -> str:
    """A card a video: the file it was encoded from, if a browser shows that, beside what came back."""
    sources = {str(step.output): as_path(step.place("source") or "") for step in _steps_of(pipeline, "encode")}
    cards = []
    for step in _steps_of(pipeline, "decode"):
        dataset = step.place("dataset") or ""
        for row in islice((row for row in _rows(dataset) if row.kind == "video"), MAX_CARDS):
            shown = {step.name: _file(step, row.key, PLAYED)}
            if dataset in sources:
                shown = {"source": sources[dataset] / row.src_uri, **shown}
            shots = "".join(
                f"<figure>{_moving(path)}<figcaption>{escape(name.replace('_', ' '))}</figcaption></figure>"
                for name, path in shown.items()
                if path is not None and path.suffix in PLAYED and path.is_file() and path.stat().st_size <= MAX_BYTES
            )
            cards.append(f"<div class=card><b>{escape(row.text or row.key)}</b><div class=shots>{shots}</div></div>")
    heading = "<h2>Clips</h2><p>videos, encoded and decoded</p>"
    return f"{heading}<div class=cards style='--wide: 360px'>{''.join(cards)}</div>" if cards else ""


class Row(NamedTuple):
    """What the page says of a row of a dataset."""

    key: str
    kind: str
    text: str | None
    src_uri: str


def _rows(place: Path | str | None) -> Iterator[Row]:
    """The first rows of a dataset."""
    dataset = Dataset.open(str(place))
    batches = (batch for record in dataset.commit_records() for batch in dataset.batches(record))
    columns = ([batch[name].to_pylist() for name in Row._fields] for batch in batches)
    return islice((Row(*values) for one in columns for values in zip(*one)), MOST_ROWS)


def _moving(path: Path) -> str:
    content = f"data:{PLAYED[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if PLAYED[path.suffix].startswith("image/"):
        return f"<img src='{content}' alt='a clip'>"
    return f"<video src='{content}' controls loop muted></video>"


def _images(step: Step) -> list[Row]:
    """Rows of the dataset of a decode step that are images, and there as pictures."""
    return [row for row in _rows(step.place("dataset")) if row.kind == "image" and _file(step, row.key, PICTURES)]


def _file(step: Step, key: str, suffixes: Iterable[str]) -> Path | None:
    """What a decode step made of a row, if it is of one of the suffixes."""
    assert step.output is not None
    found = (picture_path(step.output, key, suffix.removeprefix(".")) for suffix in suffixes)
    return next((path for path in found if path.is_file()), None)


def _answers(path: Path) -> dict[str, str]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return {entry["key"]: entry["answer"] or entry["error"] or "" for entry in entries}


def _inline(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _curves(pipeline: Pipeline) -> str:
    parts = []
    for step in _steps_of(pipeline, "sft"):
        assert step.output is not None
        curve = base64.b64encode((step.output / "loss.png").read_bytes()).decode()
        parts.append(
            f"<h2>Loss of {escape(step.name)}</h2><img class=curve src='data:image/png;base64,{curve}' alt=loss>"
        )
    return "".join(parts)


def _figures(pipeline: Pipeline) -> str:
    """Datasets and training runs in figures."""
    rows: list[tuple[str, str, str]] = []
    for step in [*_steps_of(pipeline, "encode"), *_steps_of(pipeline, "generate")]:
        summary = summarize(Dataset.open(str(step.output)))
        rows.append((step.name, "rows", f"{summary.rows} of {summary.planned_rows}"))
        rows.append((step.name, "grids", ", ".join(f"{size} ({count})" for size, count in summary.sizes.items())))
        rows.append((step.name, "codebook in use", f"{summary.codebook_used} of {summary.codebook_size}"))
        if summary.psnr_db is not None:
            rows.append((step.name, "restored", f"PSNR {summary.psnr_db:.1f} dB ({summary.quality_samples} samples)"))
        if summary.images_per_s:
            rows.append((step.name, "speed", f"{summary.images_per_s:.1f} images/s"))
    for step in _steps_of(pipeline, "sft"):
        assert step.output is not None
        log = [json.loads(line) for line in (step.output / "train_log.jsonl").read_text().splitlines()]
        losses = [entry["loss"] for entry in log if "loss" in entry]
        rows.append((step.name, "steps", str(len(log))))
        rows.append((step.name, "loss", f"{losses[0]:.3f} → {losses[-1]:.3f}"))
        tokens = sum(entry["tokens"] for entry in log)
        rows.append((step.name, "speed", f"{tokens / max(log[-1]['elapsed_s'], 0.01):.0f} useful tokens/s"))
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<h2>Figures</h2><div class=scroll><table>{lines}</table></div>" if rows else ""


def _steps(done: Sequence[tuple[StepState, float]]) -> str:
    lines = "".join(
        f"<tr><td>{escape(state.step.name)}</td><td><code>emu3 {escape(' '.join(state.step.arguments))}</code></td>"
        f"<td class=number>{seconds:.0f} s{', before' if state.state == 'done' else ''}</td></tr>"
        for state, seconds in done
    )
    return f"<h2>Steps</h2><div class=scroll><table>{lines}</table></div>"
