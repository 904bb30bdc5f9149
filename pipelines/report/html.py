"""The report page of a run: pictures beside their captions, loss curves, figures, steps.

The page is rendered by the template page.html.j2. It only shows what the steps wrote: no model is loaded, and the
page needs no network.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2

from pipelines.report.answers import answer_sections
from pipelines.report.media import clip_sections, data_url, finished_steps, picture_sections
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.state import StepState
from shared.dataset.dataset import Dataset
from shared.maintenance.summary import summarize
from shared.storage.atomic import write_file
from shared.training.log import TrainLog

FigureRow = tuple[str, str, str]  # step, quantity, value


def write_report(pipeline: Pipeline, steps: Sequence[StepState], path: Path) -> None:
    """Write the page about a run that has finished `steps`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        name=pipeline.name,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        versions=f"emu3-relay {version('emu3-relay')}, MindSpore {version('mindspore')}",
        sections=[*picture_sections(pipeline), *answer_sections(pipeline), *clip_sections(pipeline)],
        curves=[
            {"step": step.name, "data_url": data_url(output / "loss.png")}
            for step, output in finished_steps(pipeline, "sft")
            if (output / "loss.png").is_file()
        ],
        figures=[*_dataset_figures(pipeline), *_training_figures(pipeline)],
        steps=steps,
    )
    write_file(path, page.encode())


def _dataset_figures(pipeline: Pipeline) -> Iterator[FigureRow]:
    for step, output in [*finished_steps(pipeline, "encode"), *finished_steps(pipeline, "generate")]:
        summary = summarize(Dataset.open(str(output)))
        yield step.name, "rows", f"{summary.rows} of {summary.planned_rows}"
        yield step.name, "grids", ", ".join(f"{size} ({count})" for size, count in summary.sizes.items())
        yield step.name, "codebook entries used", f"{summary.codebook_used} of {summary.codebook_size}"
        if summary.psnr_db is not None:
            samples = f"{summary.quality_samples} samples"
            yield step.name, "reconstruction", f"PSNR {summary.psnr_db:.1f} dB ({samples})"
        if summary.images_per_s:
            yield step.name, "speed", f"{summary.images_per_s:.1f} images/s"


def _training_figures(pipeline: Pipeline) -> Iterator[FigureRow]:
    for step, output in finished_steps(pipeline, "sft"):
        log = TrainLog(output, sys.maxsize).entries
        losses = [entry["loss"] for entry in log if "loss" in entry]
        yield step.name, "steps", str(len(log))
        if losses:
            yield step.name, "loss", f"{losses[0]:.3f} → {losses[-1]:.3f}"
        if log:
            tokens_per_s = sum(entry.get("tokens", 0) for entry in log) / max(log[-1]["elapsed_s"], 0.01)
            yield step.name, "speed", f"{tokens_per_s:.0f} useful tokens/s"
