"""The jobs around the model: the encode job's share of the model's rate, bytes per code, and the cost of many units.

python -m tests.benchmarks.bench_jobs
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from shared.codec import EMU3
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import CodeRecord
from shared.maintenance.summary import summarize
from tests.benchmarks.row import Row
from vq_stage import VisionTokenizer
from vq_stage.encode.input_reader import InputReader, ReadTask
from vq_stage.encode.job import encode
from vq_stage.encode.options import EncodeOptions
from vq_stage.media.resizing import Preprocessing
from vq_stage.model.weights import EMBEDDED_TOKENIZER
from vq_stage.sources.open_source import open_source
from vq_stage.video.clips import ClipSampling


def write_photos(folder: Path, count: int, side: int) -> None:
    """Write JPEG files of smooth noise, 1.5 times as large as they are encoded."""
    for index in range(count):
        coarse = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side * 3 // 2, side * 3 // 2), Image.Resampling.BICUBIC)
        image.save(folder / f"photo-{index:04d}.jpg", quality=90)


def rows(quick: bool) -> list[Row]:
    """Compare the encode job with the model alone, for fewer photos if `quick`."""
    return [bench_encode_job(64 if quick else 512, 256)]


def bench_encode_job(count: int, side: int) -> Row:
    """Print images per second of the job (reading, resizing, quality, committing), and of the model alone."""
    with tempfile.TemporaryDirectory() as root:
        pictures, dataset = Path(root) / "pictures", Path(root) / "dataset"
        pictures.mkdir()
        write_photos(pictures, count, side)
        area = Preprocessing("area", side * side)
        options = EncodeOptions(str(pictures), str(dataset), preprocessing=area, unit_rows=count // 2)
        tokenizer = VisionTokenizer.from_pretrained(EMBEDDED_TOKENIZER)
        batch = max(1, options.batch_pixels // side**2)
        source = open_source(str(pictures))
        unit = Unit(0, side, side, tuple(PlannedInput(i, item.key, item.uri) for i, item in enumerate(source)))
        reader = InputReader(source, EMU3, area, ClipSampling())
        pixels = np.stack([reader.prepare(ReadTask(unit, planned)).pixels for planned in unit.inputs[:batch]])
        tokenizer.encode_images(pixels)
        started = time.perf_counter()
        for _ in range(count // batch):
            tokenizer.encode_images(pixels)
        model_rate = count // batch * batch / (time.perf_counter() - started)
        encode(options)
        opened = Dataset.open(dataset)
        first, second = (json.loads(line) for line in opened.events_path.read_text().splitlines())
        job_rate = second["rows"] / second["elapsed_s"]
        click.echo(
            f"encode job, {count} photos of {side}²: {job_rate:.2f} images/s in its second unit,"
            f" model alone {model_rate:.2f}: {job_rate / model_rate:.1%}"
            f" (first unit, with compilation: {first['elapsed_s']:.1f} s)"
        )
        summary = summarize(opened)
        click.echo(f"on disk: {summary.bytes_per_code} bytes per code for pictures of {side}²")
        name = f"encode job, photos of {side}², small tokenizer"
        return Row(name, job_rate, "images/s", "the model alone", model_rate, job_rate / model_rate)


def bench_many_units(units: int) -> None:
    """Print the seconds that `inspect`, and a resume with nothing left to do, take for many committed units."""
    with tempfile.TemporaryDirectory() as root:
        pictures, dataset = Path(root) / "pictures", Dataset(Path(root) / "dataset")
        pictures.mkdir()
        for index in range(units):
            Image.new("RGB", (64, 64), (index % 256, index // 256, 0)).save(pictures / f"{index:05d}.png")
        options = EncodeOptions(str(pictures), str(dataset.root), preprocessing=Preprocessing("none"), unit_rows=1)
        dataset.root.mkdir()
        items = list(open_source(str(pictures)))
        planned = [Unit(i, 64, 64, (PlannedInput(i, item.key, item.uri),)) for i, item in enumerate(items)]
        freeze_plan(dataset.plan_path, planned, options.recorded(), units)
        plan = dataset.plan()
        for unit in planned:
            codes = np.random.default_rng(unit.unit).integers(0, 256, (1, 8, 8), dtype=np.uint16)
            key, uri = unit.inputs[0].key, unit.inputs[0].uri
            row = CodeRecord(key, unit.unit, "image", codes, None, uri, bytes(32), 64, 64)
            dataset.commit(UnitResult(unit.unit, [row]), plan)
        for name, run in (("inspect", lambda: summarize(dataset)), ("resume", lambda: encode(options))):
            started = time.perf_counter()
            run()
            click.echo(f"{name} over {units} committed units: {time.perf_counter() - started:.2f} s")


@click.command()
@click.option("--count", type=int, default=64, help="Number of photos for the encode job.")
@click.option("--side", type=int, default=512, help="Side of an encoded photo in pixels.")
@click.option("--units", type=int, default=1000, help="Number of committed units.")
def main(count: int, side: int, units: int) -> None:
    """Run both with the embedded tokenizer."""
    bench_many_units(units)
    bench_encode_job(count, side)


if __name__ == "__main__":
    main()
