"""Upstream's layout: a file of `torch.save` a sample, and a list of them, read into rows and written from rows.

    list/train.json     {"prefix": "…/feature", "path_list": ["a.pth", …]}
    feature/a.pth       {"name": str, "images": int64 (h, w), or (t, h, w) of a video, "texts": str}

Source: Emu3, the scripts that prepare its training data. Shape suffixes: T frames, H W grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.codec import Codec
from shared.dataset.dataset import Refusal
from shared.dataset.plan import REFUSED, PlannedInput, Size, Unit
from shared.dataset.plan_writer import KnownKeys
from shared.dataset.rows import CodeRecord
from shared.errors import JobStoppedError, RefusedInput, UsageError
from shared.exchange.formats.safe_names import safe_name
from shared.exchange.formats.torch_files import dump_torch, load_torch
from shared.jobs.prefetch import prefetch_map
from shared.storage.digests import canonical_json
from shared.storage.paths import as_path

FEATURES = "feature"
LIST = "list/train.json"
_SUFFIX = ".pth"
_READERS = 4
_MAX_SIDE = 65535


def sample_name(key: str) -> str:
    return safe_name(key) + _SUFFIX


def dump_sample(row: CodeRecord) -> bytes:
    """The file of a row. All but key, codes and text is lost."""
    codes = row.codes_THW.astype("<i8")
    return dump_torch({"name": row.key, "images": codes[0] if row.kind == "image" else codes, "texts": row.text or ""})


def dump_list(prefix: str, names: list[str]) -> bytes:
    return (canonical_json({"prefix": prefix, "path_list": names}) + "\n").encode()


class UpstreamSamples:
    """The samples of a list. Raises UsageError if it is none."""

    def __init__(self, path: Path, codec: Codec, max_refused_in_a_row: int):
        self.path = path
        self.codec = codec
        self.max_refused_in_a_row = max_refused_in_a_row
        try:
            listed = json.loads(path.read_bytes())
            prefix, self.entries = str(listed["prefix"]), list(listed["path_list"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f'{path}: expected {{"prefix": …, "path_list": […]}}: {error!r}') from error
        self.features = _features(path, prefix)

    def __len__(self) -> int:
        return len(self.entries)

    def planned(self) -> Iterator[tuple[Size, PlannedInput]]:
        """Every sample with the size of its grid, (0, 0, 0) and the reason if it is refused.

        Raises JobStoppedError if too many in a row are.
        """
        known, in_a_row = KnownKeys(), 0
        for size, planned in prefetch_map(self._plan, range(len(self.entries)), _READERS, 8 * _READERS):
            if size != REFUSED and not known.is_new(planned.key):
                detail = "another sample of the list has this name"
                size, planned = REFUSED, _refused(planned, RefusedInput("duplicate_key", detail))
            in_a_row = in_a_row + 1 if size == REFUSED else 0
            if in_a_row > self.max_refused_in_a_row:
                raise JobStoppedError(
                    f"{self.path}: more than {self.max_refused_in_a_row} samples in a row refused, the last:"
                    f" {planned.uri}: {planned.refused_reason}: {planned.refused_detail}"
                )
            yield size, planned

    def _plan(self, index: int) -> tuple[Size, PlannedInput]:
        try:
            row = self.row(index)
        except RefusedInput as error:
            entry = _plain(str(self.entries[index]))
            return REFUSED, _refused(PlannedInput(index, entry, entry), error)
        t, h, w = row.codes_THW.shape
        return (t, h, w), PlannedInput(index, row.key, row.src_uri)

    def read(self, unit: Unit) -> tuple[list[CodeRecord], list[Refusal]]:
        """The rows of a unit, and what is refused of it."""
        records, refusals = [], []
        for planned in unit.inputs:
            try:
                records.append(self._read(planned, unit.size))
            except RefusedInput as error:
                detail = _plain(error.detail)
                refusals.append(Refusal(planned.key, planned.src_index, planned.uri, error.reason, detail))
        return records, refusals

    def _read(self, planned: PlannedInput, size: Size) -> CodeRecord:
        if planned.refused_reason is not None:
            raise RefusedInput(planned.refused_reason, planned.refused_detail or "")
        if planned.src_index >= len(self.entries) or self.entries[planned.src_index] != planned.uri:
            raise UsageError(f"{self.path}: changed since the import began; import it into a new dataset")
        row = self.row(planned.src_index)
        if (row.key, row.codes_THW.shape) != (planned.key, size):
            raise RefusedInput("changed", "name or size changed since the import began")
        return row

    def row(self, index: int) -> CodeRecord:
        """Raises RefusedInput if the file is missing, broken, unsafe, or holds no codes of this codebook."""
        entry = self.entries[index]
        if not isinstance(entry, str) or not _is_unicode(entry):
            raise RefusedInput("bad_entry", f"path_list[{index}]: expected a path, got {entry!r}")
        content = _read_file(self.features / entry)
        sample = load_torch(content)
        name, text = sample.get("name", entry.removesuffix(_SUFFIX)), sample.get("texts")
        if not isinstance(name, str) or not isinstance(text, str | None) or not _is_unicode(name + (text or "")):
            raise RefusedInput("bad_entry", "name or texts: expected text")
        codes_THW = self._codes(sample.get("images"))
        t, h, w = codes_THW.shape
        return CodeRecord(
            key=name,
            src_index=index,
            kind="video" if t > 1 else "image",
            codes_THW=codes_THW,
            text=text or None,
            src_uri=entry,
            src_sha256=hashlib.sha256(content).digest(),
            src_h=h * self.codec.spatial_factor,
            src_w=w * self.codec.spatial_factor,
        )

    def _codes(self, images: Any) -> np.ndarray:
        """uint16 (T, H, W). Raises RefusedInput if these are no codes."""
        if not isinstance(images, np.ndarray) or images.ndim not in (2, 3) or not images.size:
            shape = images.shape if isinstance(images, np.ndarray) else type(images).__name__
            raise RefusedInput("bad_codes", f"images: expected integers (h, w) or (t, h, w), got {shape}")
        low, high = int(images.min()), int(images.max())
        if low < 0 or high >= self.codec.codebook_size or max(images.shape) > _MAX_SIDE:
            raise RefusedInput(
                "bad_codes", f"images: {low} to {high}, expected 0 to {self.codec.codebook_size - 1}: {images.shape}"
            )
        return np.ascontiguousarray(images.reshape(-1, *images.shape[-2:]), dtype=np.uint16)


def _features(path: Path, prefix: str) -> Path:
    """Where the prefix leads: from the list's folder or the one above, beside it if the whole was moved, from here."""
    beside = path.parent.parent
    near = [] if "://" in prefix else [path.parent / prefix, beside / prefix, beside / FEATURES]
    return next((place for place in near if place.is_dir()), as_path(prefix))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RefusedInput("missing", f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise RefusedInput("unreadable", f"{path}: {error}") from error


def _is_unicode(text: str) -> bool:
    """Whether it has no lone surrogates, which JSON and pickle may spell but no file of ours can hold."""
    return _plain(text) == text


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _refused(planned: PlannedInput, error: RefusedInput) -> PlannedInput:
    return replace(planned, refused_reason=error.reason, refused_detail=_plain(error.detail))
