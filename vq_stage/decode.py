"""The decode job: code shards to image files, named by key.

The way of one image: record → batch of one size → pixels → encoded file, written whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from shared.ahead import map_ahead
from shared.atomic import create_file, write_file
from shared.dataset import Dataset
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.fingerprint import canonical_json, settings_diff
from shared.locks import job_lock
from shared.records import CodeRecord
from shared.signals import StopFlag, stop_on_signals
from vq_stage.config import VQConfig
from vq_stage.weights import EMBEDDED_TOKENIZER, codec_fingerprint

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
RECORD_NAME = ".emu3-decode.json"
MAX_NAME_BYTES = 200
WRITERS, WRITE_BEHIND = 2, 64


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Settings of a decode job. `quality` is of JPEG and WebP, 1 to 100."""

    dataset: str
    out: str
    vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
    format: str = "png"
    quality: int = 95
    batch_pixels: int = 512 * 512
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"--format {self.format!r}: expected one of {', '.join(FORMATS)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: expected 1 to 100")
        if self.batch_pixels < 1:
            raise UsageError(f"--batch-pixels {self.batch_pixels}: expected at least 1")


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """Files written by this run, files that were there already, and sequences that are no picture (key, error)."""

    written: int
    skipped: int
    invalid: tuple[tuple[str, str], ...] = ()


def check_codec(dataset: Dataset, vision_tokenizer: str | Path) -> None:
    """Raises ConfigMismatchError, before a model loads, if the codes were made by another tokenizer.

    Generated codes may name none, if the language model's checkpoint did not: then the codebook's size must do.
    """
    codec = dataset.plan().settings["codec"]
    expected, size = codec["fingerprint"], VQConfig.from_directory(vision_tokenizer).codebook_size
    if expected is None and codec["codebook_size"] != size:
        raise ConfigMismatchError(
            f"{vision_tokenizer}: codebook of {size}, but {dataset.root} holds codes of one of {codec['codebook_size']}"
        )
    found = codec_fingerprint(vision_tokenizer)
    if expected is not None and found != expected:
        raise ConfigMismatchError(
            f"{vision_tokenizer}: tokenizer {found[:12]}, but {dataset.root} holds codes of {expected[:12]};"
            " give that one by --vision-tokenizer"
        )


def decode(options: DecodeOptions) -> DecodeResult:
    """Decodes every committed row that has no file yet; the same call resumes.

    Raises ConfigMismatchError if the tokenizer is not the dataset's or `out` holds pictures of another dataset.
    """
    dataset, out = Dataset.open(options.dataset), Path(options.out)
    check_codec(dataset, options.vision_tokenizer)
    with stop_on_signals() as stop, job_lock(out, lambda: _sweep(out)):
        _claim_directory(dataset, options, out)
        result = _decode_missing(dataset, options, out, stop)
        stop.raise_if_set(f"{result.written} pictures written to {out}")
    return result


def _decode_missing(dataset: Dataset, options: DecodeOptions, out: Path, stop: StopFlag) -> DecodeResult:
    records = [record for record in dataset.commit_records() if record.rows]
    bar = tqdm(total=sum(record.rows for record in records), unit="image", desc="decode", disable=None)
    written = skipped = 0
    invalid: list[tuple[str, str]] = []

    def missing() -> Iterator[CodeRecord]:
        nonlocal skipped
        for record in records:
            for row in dataset.rows(record):
                if not row.has_grid:
                    invalid.append((row.key, getattr(row, "error", None) or "no image"))
                    bar.update()
                elif picture_path(out, row.key, options.format).is_file():
                    skipped += 1
                    bar.update()
                else:
                    yield row

    def save(picture: tuple[str, np.ndarray]) -> None:
        key, pixels_HWC = picture
        path = picture_path(out, key, options.format)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, _encoded(pixels_HWC, options))

    with bar, closing(map_ahead(save, _decoded(options, missing(), stop), WRITERS, WRITE_BEHIND)) as saved:
        for _ in saved:
            written += 1
            bar.update()
    return DecodeResult(written, skipped, tuple(invalid))


def _sweep(out: Path) -> None:
    """Removes temporary files of killed jobs; only called while no other job decodes into `out`."""
    for path in out.rglob("*.tmp") if (out / RECORD_NAME).is_file() else out.glob(f"{RECORD_NAME}.*.tmp"):
        if re.search(r"\.\d+-[0-9a-f]{8}\.tmp$", path.name):
            path.unlink(missing_ok=True)


def _decoded(options: DecodeOptions, rows: Iterable[CodeRecord], stop: StopFlag) -> Iterator[tuple[str, np.ndarray]]:
    """(key, pixels) of every row until the stop flag is set; loads the tokenizer when the first row comes."""
    tokenizer = None
    for (kind, (t, h, w)), group in groupby(rows, key=lambda row: (row.kind, row.codes_THW.shape)):
        if kind != "image":
            raise DatasetError(f"{options.dataset}: holds rows of kind {kind}; expected images only")
        if tokenizer is None:
            from vq_stage.tokenizer import VisionTokenizer

            tokenizer = VisionTokenizer.from_pretrained(
                options.vision_tokenizer, options.device, options.dtype, options.backend
            )
        size = max(1, options.batch_pixels // (t * h * w * tokenizer.spatial_factor**2))
        while batch := list(islice(group, size)):
            codes = np.concatenate([row.codes_THW for row in batch])
            padding = np.repeat(codes[-1:], size - len(batch), axis=0)
            pixels = tokenizer.decode_images(np.concatenate([codes, padding]))
            yield from ((row.key, picture) for row, picture in zip(batch, pixels))
            if stop.is_set():
                return


def picture_path(out: Path, key: str, suffix: str) -> Path:
    """Where the picture of a key is written: folders are kept, nothing leads out of `out`, names fit the disk.

    Distinct keys have distinct paths: a component that had to be changed ends in a hash of its original. So do
    folders that look like a picture's name, or like the files of this job.
    """
    *folders, name = key.split("/")
    reserved = re.compile(rf"\.{suffix}$|^{re.escape(RECORD_NAME)}|^\.lock$", re.IGNORECASE)
    places = [_safe_name(folder, is_reserved=bool(reserved.search(folder))) for folder in folders]
    return out.joinpath(*places, f"{_safe_name(name)}.{suffix}")


def _safe_name(component: str, is_reserved: bool = False) -> str:
    name = re.sub(r"[\x00-\x1f\\:*?\"<>|~]", "_", component)
    if name == component and name.strip(".") and len(name.encode()) <= MAX_NAME_BYTES and not is_reserved:
        return name
    kept = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip(".")
    return f"{kept}~{hashlib.sha256(component.encode()).hexdigest()[:8]}"


def _encoded(pixels_HWC: np.ndarray, options: DecodeOptions) -> bytes:
    buffer = io.BytesIO()
    quality = {} if options.format == "png" else {"quality": options.quality}
    Image.fromarray(pixels_HWC).save(buffer, FORMATS[options.format], **quality)
    return buffer.getvalue()


def _claim_directory(dataset: Dataset, options: DecodeOptions, out: Path) -> None:
    """Marks `out` as this dataset's, or refuses one that holds something else under the same names."""
    path = out / RECORD_NAME
    if not path.is_file() and (others := [entry.name for entry in out.iterdir() if entry.name != ".lock"]):
        raise UsageError(f"{out}: holds {others[0]!r} and is not a folder of decoded pictures; use an empty folder")
    belongs: dict[str, Any] = {
        "plan_sha256": dataset.plan().sha256,
        "format": options.format,
        "quality": None if options.format == "png" else options.quality,
    }
    if create_file(path, canonical_json(belongs).encode()):
        return
    try:
        recorded = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: damaged: {error}; delete it to decode into this folder again") from error
    if diff := settings_diff(recorded, belongs):
        raise ConfigMismatchError(
            f"{out} holds pictures of another dataset or format:\n  " + "\n  ".join(diff) + "\nuse another folder"
        )
