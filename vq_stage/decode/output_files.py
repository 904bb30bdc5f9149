"""Files of decoded images and videos: formats, names by key, and the folder, which belongs to one dataset and format.

Each file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shared.codec import Codec
from shared.dataset.columns import ANSWER_KIND
from shared.dataset.dataset import Dataset
from shared.dataset.rows import DEFAULT_FPS, CodeRecord
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.storage.atomic import create_file, write_file
from shared.storage.digests import canonical_json, settings_diff
from shared.storage.paths import make_directory, names_in
from shared.storage.small_files import parse_json_object, read_small_file
from vq_stage.decode.options import IMAGE_FORMATS, VIDEO_FORMATS, MediaFormats
from vq_stage.sources.media_types import is_system_name
from vq_stage.video.encoding import encode_video_file, frame_files

RECORD_NAME = ".emu3-decode.json"
CLAIMS_NAME = ".claims"
PAGE, PICTURES = "html", "images"  # suffixes of the page and of the folder with the pictures of an answer
MAX_NAME_BYTES = 200
MAX_KEY_BYTES = 1000  # a quarter of the longest path of common systems
UNSAFE = re.compile(r"[\x00-\x1f\\:*?\"<>|~]")
RESERVED = re.compile(
    rf"\.({'|'.join((*IMAGE_FORMATS, *VIDEO_FORMATS, PAGE, PICTURES))})$"
    rf"|^{re.escape(RECORD_NAME)}|^{re.escape(CLAIMS_NAME)}$|^\.lock$",
    re.IGNORECASE,
)


def output_path(out: Path, row: CodeRecord, formats: MediaFormats, codec: Codec) -> Path:
    """Return the file of a row that is written last: the page of an answer, the last frame of a video as frames."""
    if row.kind == ANSWER_KIND:
        return picture_path(out, row.key, PAGE)
    if row.kind != "video":
        return picture_path(out, row.key, formats.image)
    if formats.video != "frames":
        return picture_path(out, row.key, formats.video)
    return picture_path(out, row.key, "frames") / f"{codec.temporal_factor * len(row.codes_THW) - 1:06d}.png"


def write_output(out: Path, row: CodeRecord, pixels: np.ndarray, formats: MediaFormats, codec: Codec) -> None:
    """Write an image (H, W, 3), or the frames (T, H, W, 3) of a video, uint8."""
    path = output_path(out, row, formats, codec)
    make_directory(path.parent)
    if row.kind != "video":
        write_file(path, image_bytes(pixels, formats))
    elif formats.video != "frames":
        write_file(path, encode_video_file(pixels, row.fps or DEFAULT_FPS, formats.video, formats.quality))
    else:
        for name, content in frame_files(pixels):
            write_file(path.with_name(name), content)


def image_bytes(pixels_HWC: np.ndarray, formats: MediaFormats) -> bytes:
    """Return the file of an image (H, W, 3), uint8."""
    buffer = io.BytesIO()
    quality = {} if formats.image == "png" else {"quality": formats.quality}
    Image.fromarray(pixels_HWC).save(buffer, IMAGE_FORMATS[formats.image], **quality)
    return buffer.getvalue()


def claim_directory(out: Path, dataset: Dataset, formats: MediaFormats) -> None:
    """Mark `out` as the output of this dataset in these formats.

    Raises UsageError for a folder with other files, ConfigMismatchError for the output of another dataset or format,
    and DatasetError if the record of `out` is damaged.
    """
    path = out / RECORD_NAME
    if not path.is_file() and (others := sorted(name for name in names_in(out) if not is_system_name(name))):
        raise UsageError(
            f"{out}: contains {others[0]!r} and is not the output of a decode job; give an empty or a new folder"
        )
    owner: dict[str, Any] = {"plan_sha256": dataset.plan().sha256, **formats.recorded()}
    if create_file(path, canonical_json(owner).encode()):
        return
    advice = "remove it to decode into this folder again"
    recorded = parse_json_object(read_small_file(path, error=DatasetError), f"{path}: damaged; {advice}", DatasetError)
    if diff := settings_diff(recorded, owner):
        raise ConfigMismatchError(
            f"{out}: contains images of another dataset or format:\n  " + "\n  ".join(diff) + "\nuse another folder"
        )


def ignores_case(out: Path) -> bool:
    """Return whether the file system of a claimed folder treats names that differ in case as the same file."""
    return (out / RECORD_NAME.upper()).is_file()


def check_distinct(out: Path, keys: Iterable[str]) -> None:
    """Raise UsageError if two keys would be one file on a file system that ignores case and Unicode forms."""
    seen: dict[str, str] = {}
    for key in keys:
        other = seen.setdefault(unicodedata.normalize("NFC", key).casefold(), key)
        if other != key:
            raise UsageError(
                f"{out}: its file system ignores case and Unicode forms, so the keys {other!r} and {key!r} would be one"
                " file; decode into a folder on another file system"
            )


def sweep_directory(out: Path) -> None:
    """Remove what killed jobs left behind; only called while no other job decodes into `out`."""
    for path in out.rglob("*.tmp") if (out / RECORD_NAME).is_file() else out.glob(f"{RECORD_NAME}.*.tmp"):
        if re.search(r"\.\d+-[0-9a-f]{8}\.tmp$", path.name):
            path.unlink(missing_ok=True)
    for name in names_in(out / CLAIMS_NAME):
        (out / CLAIMS_NAME / name).unlink(missing_ok=True)
    if (out / CLAIMS_NAME).is_dir():
        (out / CLAIMS_NAME).rmdir()


def picture_path(out: Path, key: str, suffix: str) -> Path:
    """Return the path of the image of a key: folders are kept, and no path leads out of `out`.

    Distinct keys have distinct paths: a component that is not a valid file name is changed and ends in a hash of the
    original. So does a folder that has the name of an image, a video or one of this job's own files. A key that is too
    long for a path becomes one name with a hash.
    """
    *folders, name = key.split("/")
    if len(key.encode()) > MAX_KEY_BYTES:
        return out / f"{_shortened(name)}~{hashlib.sha256(key.encode()).hexdigest()[:16]}.{suffix}"
    folders = [_safe_name(folder, is_reserved=bool(RESERVED.search(folder))) for folder in folders]
    return out.joinpath(*folders, f"{_safe_name(name)}.{suffix}")


def _safe_name(component: str, is_reserved: bool = False) -> str:
    name = UNSAFE.sub("_", component)
    if name == component and name.strip(".") and len(name.encode()) <= MAX_NAME_BYTES and not is_reserved:
        return name
    return f"{_shortened(name)}~{hashlib.sha256(component.encode()).hexdigest()[:8]}"


def _shortened(name: str) -> str:
    return UNSAFE.sub("_", name).encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip(".")
