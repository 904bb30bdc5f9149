"""Count the files and functions that one image crosses in each command.

    python -m tests.benchmarks.walk [--root REPOSITORY]

One image is encoded, trained on, generated from its caption, and decoded, each by the real command in a process of
its own, on the embedded models. Every call of a function of the project is traced. A function is on the path of the
image if an argument or the returned value holds its path, key, pixels, codes or tokens. `run` traces only the
process that runs the pipeline, not the commands it starts. With `--root` another checkout is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

KEY = "walked"
HEIGHT, WIDTH = 40, 56
GRID = (HEIGHT // 8, WIDTH // 8)
PACKAGES = ("shared", "vq_stage", "lm_stage", "pipelines")
DEPTH, ELEMENTS = 3, 4
REPOSITORY = Path(__file__).parents[2]
PIPELINE = """
steps:
  codes: {{run: encode, source: {pictures}, resize: none}}
  pictures: {{run: decode, dataset: "${{codes}}"}}
"""


def carries_image(value: Any, depth: int = DEPTH) -> bool:
    """Whether a value holds the image in any of its forms, down to a small depth."""
    if isinstance(value, (str, Path)):
        return KEY in str(value)
    if isinstance(value, (bytes, int, float, type(None), type)):
        return False
    shape = getattr(value, "shape", None)
    if isinstance(shape, (tuple, list)):
        return (
            tuple(shape[-3:-1]) == (HEIGHT, WIDTH)
            or tuple(shape[-2:]) in ((HEIGHT, WIDTH), GRID)
            or (isinstance(value, np.ndarray) and value.dtype.kind in "ui" and value.size >= GRID[0] * GRID[1])
        )
    if depth == 0:
        return False
    if isinstance(value, (list, tuple)):
        return any(carries_image(one, depth - 1) for one in value[:ELEMENTS])
    if is_dataclass(value) and not isinstance(value, type):
        return any(carries_image(getattr(value, field.name, None), depth - 1) for field in fields(value))
    return False


class Tracer:
    """Notes the functions of a checkout that are called, and those that hold the image."""

    def __init__(self, root: Path):
        self.prefixes = tuple(f"{root / package}{os.sep}" for package in PACKAGES)
        self.called: set[tuple[str, str]] = set()
        self.on_path: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(self.prefixes):
            return
        name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
        if name == "<module>":
            return
        function = (frame.f_code.co_filename, f"{name}:{frame.f_code.co_firstlineno}")
        self.called.add(function)
        if function not in self.on_path:
            arguments = list(frame.f_locals.values()) if event == "call" else [value]
            if any(carries_image(one) for one in arguments):
                self.on_path.add(function)

    def counts(self) -> dict[str, int]:
        return {
            "files on the path": len({file for file, _ in self.on_path}),
            "functions on the path": len(self.on_path),
            "files called": len({file for file, _ in self.called}),
            "functions called": len(self.called),
        }


def trace(root: Path, arguments: list[str]) -> None:
    """Run one command under the tracer and print its counts, and the files of the path, as JSON."""
    from pipelines.cli import main

    tracer = Tracer(root)
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        main(arguments, standalone_mode=False)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    path = sorted({str(Path(file).relative_to(root)) for file, _ in tracer.on_path})
    print(json.dumps({**tracer.counts(), "path": path}))


def commands(folder: Path) -> dict[str, list[str]]:
    """The command lines, in an order in which each finds what it reads."""
    codes, run, sequences = str(folder / "codes"), str(folder / "run"), str(folder / "sequences")
    return {
        "encode": ["encode", str(folder / "pictures"), codes, "--resize", "none"],
        "decode": ["decode", codes, str(folder / "decoded")],
        "sft": ["sft", codes, run, "--steps", "2", "--warmup", "1"],
        "generate": ["generate", codes, sequences],
        "run": ["run", str(folder / "pipeline.yaml"), "--out", str(folder / "pipeline")],
    }


def measure(root: Path) -> dict[str, dict[str, Any]]:
    """Counts of every command in the checkout at `root`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        (folder / "pictures").mkdir()
        Image.fromarray(pixels).save(folder / "pictures" / f"{KEY}.png")
        (folder / "pictures" / f"{KEY}.txt").write_text(f"a {KEY} picture")
        (folder / "pipeline.yaml").write_text(PIPELINE.format(pictures=folder / "pictures"))
        counts = {}
        for command, arguments in commands(folder).items():
            done = subprocess.run(
                [sys.executable, str(Path(__file__).resolve()), "--root", str(root), "--trace", *arguments],
                env={**os.environ, "PYTHONPATH": str(root), "GLOG_v": "3"},
                cwd=root,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise SystemExit(f"{command}: exit {done.returncode}: {done.stderr[-2000:]}")
            counts[command] = json.loads(done.stdout.splitlines()[-1])
        return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPOSITORY)
    parser.add_argument("--files", action="store_true", help="List the files of each path.")
    parser.add_argument("--trace", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root.resolve()
    if options.trace:
        trace(root, options.trace)
        return
    for command, counts in measure(root).items():
        files = counts.pop("path")
        print(f"{command:9}" + "  ".join(f"{name} {count:4}" for name, count in counts.items()))
        if options.files:
            print("".join(f"    {file}\n" for file in files), end="")


if __name__ == "__main__":
    main()
