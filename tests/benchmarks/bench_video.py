"""Whether videos are decoded and resized faster than the model encodes them, in frames per second.

python -m tests.benchmarks.bench_video --side 256
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from shared.codec import EMU3
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.settings import DatasetSettings
from shared.jobs.signals import StopFlag
from vq_stage.encode.input_reader import InputReader, ReadTask
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.planner import Planner
from vq_stage.media.resizing import Preprocessing
from vq_stage.model.weights import EMBEDDED_TOKENIZER
from vq_stage.sources.open_source import open_source
from vq_stage.tokenizer import VisionTokenizer
from vq_stage.video.clips import ClipSampling
from vq_stage.video.encoding import encode_video_file

SECONDS, FPS, HEIGHT, WIDTH = 20, 24, 720, 1280


def moving_noise() -> np.ndarray:
    """Return uint8 frames (T, 720, 1280, 3): a large smooth picture that pans past."""
    coarse = np.random.default_rng(0).integers(0, 256, (90, 320, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((4 * WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return np.stack([wide[:, 4 * index : 4 * index + WIDTH] for index in range(SECONDS * FPS)])


@click.command()
@click.option("--side", type=int, default=256, help="Side in pixels of a square with the area of encoded clips.")
def main(side: int) -> None:
    """Read and encode a 720p video of 20 s at 24 fps in clips of 16 frames at 8 fps, with one reader thread."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "videos"
        folder.mkdir()
        (folder / "noise.mp4").write_bytes(encode_video_file(moving_noise(), FPS, "mp4", 80))
        source, area, sampling = open_source(folder), Preprocessing("area", side * side), ClipSampling()
        with PlanWriter(256) as writer:
            planner = Planner(EncodeOptions(str(folder), "", preprocessing=area, reader_threads=1), EMU3, source)
            planner.plan_items(writer, source, KnownKeys(), 0, StopFlag())
            writer.freeze(Path(root) / "plan.arrow", DatasetSettings(EMU3))
        unit = Plan(Path(root) / "plan.arrow").unit(0)
        reader = InputReader(source, EMU3, area, sampling)
        started = time.perf_counter()
        clips = [reader.prepare(ReadTask(unit, planned)).pixels for planned in unit.inputs]
        read_rate = len(clips) * unit.frames / (time.perf_counter() - started)
    tokenizer = VisionTokenizer.from_pretrained(EMBEDDED_TOKENIZER)
    tokenizer.encode_video(clips[0])
    started = time.perf_counter()
    for clip in clips[:4]:
        tokenizer.encode_video(clip)
    model_rate = 4 * unit.frames / (time.perf_counter() - started)
    click.echo(
        f"read and resized to {unit.height}×{unit.width}: {read_rate:.0f} frames/s with one reader thread; encoded:"
        f" {model_rate:.1f} frames/s, {read_rate / model_rate:.1f} times as slow"
    )


if __name__ == "__main__":
    main()
