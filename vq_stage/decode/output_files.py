"""Files of decoded images and videos: formats, names by key, and the folder, which belongs to one dataset and format.

Each file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shared.dataset.dataset import Dataset
from shared.dataset.rows import CodeRecord
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.storage.atomic import create_file, write_file
from shared.storage.digests import canonical_json, settings_diff
from shared.storage.paths import make_directory, names_in
from vq_stage.sources.media_types import is_system_name
from vq_stage.video.encoding import VIDEO_FORMATS, encode_video_file, frame_files

IMAGE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
RECORD_NAME = ".emu3-decode.json"
CLAIMS_NAME = ".claims"
MAX_NAME_BYTES = 200
DEFAULT_FPS = 8.0  # for clips without a rate of their own


@dataclass(frozen=True, slots=True)
class MediaFormats:
    """Formats of images and videos; `quality`, 1 to 100, applies to JPEG, WebP and video files.

    Raises UsageError, naming the command-line option, for values that cannot work.
    """

    image: str = "png"
    video: str = "mp4"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.image not in IMAGE_FORMATS:
            raise UsageError(f"--format {self.image!r}: expected one of {', '.join(IMAGE_FORMATS)}")
        if self.video not in VIDEO_FORMATS:
            raise UsageError(f"--video-format {self.video!r}: expected one of {', '.join(VIDEO_FORMATS)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: expected 1 to 100")

    def recorded(self) -> dict[str, object]:
        """Return the settings that must be the same in all runs into one folder."""
        videos = {"video_format": self.video} if self.video != "mp4" else {}
        return {"format": self.image, "quality": None if self.image == "png" else self.quality, **videos}

    def path(self, out: Path, row: CodeRecord) -> Path:
        """Return the file of a row; for a video as frames, that of the last frame, which is written last."""
        if row.kind != "video":
            return picture_path(out, row.key, self.image)
        if self.video != "frames":
            return picture_path(out, row.key, self.video)
        return picture_path(out, row.key, "frames") / f"{4 * len(row.codes_THW) - 1:06d}.png"

    def write(self, out: Path, row: CodeRecord, pixels: np.ndarray) -> None:
        """Write an image (H, W, 3), or the frames (T, H, W, 3) of a video, uint8."""
        path = self.path(out, row)
        make_directory(path.parent)
        if row.kind != "video":
            write_file(path, self._image_bytes(pixels))
        elif self.video != "frames":
            write_file(path, encode_video_file(pixels, row.fps or DEFAULT_FPS, self.video, self.quality))
        else:
            for name, content in frame_files(pixels):
                write_file(path.with_name(name), content)

    def _image_bytes(self, pixels_HWC: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        quality = {} if self.image == "png" else {"quality": self.quality}
        Image.fromarray(pixels_HWC).save(buffer, IMAGE_FORMATS[self.image], **quality)
        return buffer.getvalue()


def claim_directory(out: Path, dataset: Dataset, formats: MediaFormats) -> None:
    """Mark `out` as the output of this dataset in these formats.

    Raises UsageError for a folder with other files, ConfigMismatchError for the output of another dataset or format,
    and DatasetError if the record of `out` is damaged.
    """
    path = out / RECORD_NAME
    if not path.is_file() and (others := [name for name in names_in(out) if not is_system_name(name)]):
        raise UsageError(f"{out}: contains {others[0]!r} and is not the output of a decode job; use an empty folder")
    owner: dict[str, Any] = {"plan_sha256": dataset.plan().sha256, **formats.recorded()}
    if create_file(path, canonical_json(owner).encode()):
        return
    try:
        recorded = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: damaged: {error}; delete it to decode into this folder again") from error
    if diff := settings_diff(recorded, owner):
        raise ConfigMismatchError(
            f"{out}: contains images of another dataset or format:\n  " + "\n  ".join(diff) + "\nuse another folder"
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
    original. So does a folder that has the name of an image or of one of this job's own files.
    """
    *folders, name = key.split("/")
    reserved = re.compile(rf"\.{suffix}$|^{re.escape(RECORD_NAME)}|^{re.escape(CLAIMS_NAME)}$|^\.lock$", re.IGNORECASE)
    folders = [_safe_name(folder, is_reserved=bool(reserved.search(folder))) for folder in folders]
    return out.joinpath(*folders, f"{_safe_name(name)}.{suffix}")


def _safe_name(component: str, is_reserved: bool = False) -> str:
    name = re.sub(r"[\x00-\x1f\\:*?\"<>|~]", "_", component)
    if name == component and name.strip(".") and len(name.encode()) <= MAX_NAME_BYTES and not is_reserved:
        return name
    kept = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip(".")
    return f"{kept}~{hashlib.sha256(component.encode()).hexdigest()[:8]}"
