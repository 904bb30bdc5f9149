"""Formats of codes on disk: bytes per sample, and samples per second read in order and at random.

python -m tests.benchmarks.bench_formats

Every sample is read to an array of its codes, by the reader that a user of the format would use. The files are in
the page cache, so the work of reading is compared, not the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from shared.codec import EMU3
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import RowReader
from shared.dataset.rows import MAX_ROWS_PER_BATCH, CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.exchange.export import export
from shared.exchange.formats.torch_files import load_torch
from shared.exchange.options import ExportOptions
from tests.benchmarks.row import Row

RANDOM_READS = 500


@dataclass(frozen=True, slots=True)
class Reader:
    """The readers of a format: all codes in order, and those of chosen rows (None without random access)."""

    name: str
    size_bytes: int
    in_order: Callable[[], Iterator[np.ndarray]]
    at: Callable[[Sequence[int]], Iterator[np.ndarray]] | None


def write_codes(root: Path, rows: int, side: int) -> Dataset:
    """Write random codes with captions, in units of 256."""
    dataset = Dataset(root)
    root.mkdir()
    planned = [PlannedInput(index, f"sample-{index:06d}", f"{index}.png") for index in range(rows)]
    chunks = [tuple(planned[start : start + 256]) for start in range(0, rows, 256)]
    units = [Unit(number, side, side, inputs) for number, inputs in enumerate(chunks)]
    freeze_plan(dataset.plan_path, units, DatasetSettings(EMU3), rows)
    plan = dataset.plan()
    for number in range(len(plan)):
        records = [_record(item, side) for item in plan.unit(number).inputs]
        dataset.commit(UnitResult(number, records), plan)
    return dataset


def _record(item: PlannedInput, side: int) -> CodeRecord:
    codes = np.random.default_rng(item.src_index).integers(0, 32768, (1, side, side), dtype=np.uint16)
    caption = f"a picture of the number {item.src_index}"
    return CodeRecord(item.key, item.src_index, "image", codes, caption, item.uri, bytes(32), 8 * side, 8 * side)


def arrow_reader(dataset: Dataset) -> Reader:
    def at(rows: Sequence[int]) -> Iterator[np.ndarray]:
        reader = RowReader(dataset)
        yield from (reader.codes_THW(row) for row in rows)  # opening, which compares checksums, counts too

    total = sum(record.rows for record in dataset.commit_records())
    return Reader("our Arrow parts", _size_bytes(dataset.parts), lambda: at(range(total)), at)


def webdataset_reader(folder: Path) -> Reader:
    from webdataset import WebDataset

    def in_order() -> Iterator[np.ndarray]:
        tars = [str(path) for path in sorted(folder.glob("*.tar"))]
        return (sample["codes.npy"] for sample in WebDataset(tars, shardshuffle=False).decode())

    return Reader("WebDataset tars", _size_bytes(folder), in_order, None)


def parquet_reader(folder: Path) -> Reader:
    files = sorted(folder.glob("*.parquet"))

    def in_order() -> Iterator[np.ndarray]:
        for path in files:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                codes = file.read_row_group(group, columns=["codes"]).column("codes").chunk(0)
                yield from (codes[row].values.to_numpy() for row in range(len(codes)))

    def at(rows: Sequence[int]) -> Iterator[np.ndarray]:
        """All row groups except the last have 256 rows; here there is one file."""
        file = pq.ParquetFile(files[0])
        for row in rows:
            group, index = divmod(row, MAX_ROWS_PER_BATCH)
            yield file.read_row_group(group, columns=["codes"]).column("codes")[index].values.to_numpy()

    return Reader("Parquet", _size_bytes(folder), in_order, at)


def file_a_sample_readers(folder: Path) -> Iterator[Reader]:
    """Yield our own loader, and torch's if it is installed."""
    paths = sorted((folder / "feature").glob("*.pth"))

    def reader(name: str, load: Callable[[Path], np.ndarray]) -> Reader:
        def at(rows: Sequence[int]) -> Iterator[np.ndarray]:
            return (load(paths[row]) for row in rows)

        return Reader(name, _size_bytes(folder), lambda: at(range(len(paths))), at)

    yield reader("one .pth file per sample", lambda path: load_torch(path.read_bytes())["images"])
    try:
        import torch
    except ImportError:
        return
    yield reader("one .pth per sample, torch.load", lambda path: torch.load(path, weights_only=False)["images"])


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rate(codes: Iterator[np.ndarray], side: int) -> float:
    """Return samples per second; every sample is accessed."""
    began, count = time.perf_counter(), 0
    for sample in codes:
        assert sample.size == side * side, "a sample was not read completely"
        count += 1
    return count / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Speed:
    """A format's bytes per sample, and samples read per second."""

    name: str
    size_bytes: float
    in_order: float
    at_random: float | None


def rows(quick: bool) -> list[Row]:
    """Compare our format with the others."""
    with tempfile.TemporaryDirectory() as root:
        ours, *others = bench(Path(root), 500 if quick else 2000, 32)
    name, found = "codes of 32×32", []
    for other in others:
        ratio = other.size_bytes / ours.size_bytes
        found.append(Row(f"store {name}", ours.size_bytes, "bytes/sample", other.name, other.size_bytes, ratio))
    for other in others:
        ratio = ours.in_order / other.in_order
        found.append(Row(f"read {name} in order", ours.in_order, "rows/s", other.name, other.in_order, ratio))
    for other in others:
        if ours.at_random and other.at_random:
            ratio = ours.at_random / other.at_random
            found.append(Row(f"read {name} at random", ours.at_random, "rows/s", other.name, other.at_random, ratio))
    return found


def bench(root: Path, rows: int, side: int) -> Iterator[Speed]:
    """Yield the speed of every format, ours first."""
    dataset = write_codes(root / "codes", rows, side)
    for how in ("webdataset", "parquet", "pth"):
        export(ExportOptions(str(dataset.root), str(root / how), how))
    readers = [arrow_reader(dataset), webdataset_reader(root / "webdataset"), parquet_reader(root / "parquet")]
    sampled = np.random.default_rng(0).integers(0, rows, min(rows, RANDOM_READS)).tolist()
    for reader in [*readers, *file_a_sample_readers(root / "pth")]:
        in_order = max(rate(reader.in_order(), side) for _ in range(2))
        at_random = max(rate(reader.at(sampled), side) for _ in range(2)) if reader.at else None
        yield Speed(reader.name, reader.size_bytes / rows, in_order, at_random)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--side", type=int, default=32, help="codes per side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        print(f"{options.rows} samples of {options.side}×{options.side} codes")
        print(f"{'':24} {'bytes/sample':>14} {'in order/s':>12} {'random/s':>12}")
        for speed in bench(Path(root), options.rows, options.side):
            at_random = f"{speed.at_random:12.0f}" if speed.at_random else f"{'—':>12}"
            print(f"{speed.name:24} {speed.size_bytes:14.0f} {speed.in_order:12.0f} {at_random}")


if __name__ == "__main__":
    main()
