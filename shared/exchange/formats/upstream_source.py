"""The samples of upstream's list as an import source (see `upstream` for the layout)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import MAX_SIZE, REFUSED, PlannedInput, Size, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.errors import JobStoppedError, RefusedInput, UsageError
from shared.exchange.formats.torch_files import MAX_BYTES, load_torch
from shared.jobs.prefetch import prefetch_map
from shared.storage.paths import as_path
from shared.storage.small_files import parse_json, read_small_file

MAX_LIST_BYTES = 1 << 30  # 10⁷ entries of 100 bytes
_READER_THREADS = 4


class UpstreamSource:
    """The samples of a list. Implements `ImportSource`.

    Broken or unsafe files are refused, one by one. Raises UsageError if `path` is not a list.
    """

    keeps_order = False

    def __init__(self, path: Path, feature_folder: str, settings: DatasetSettings, max_refused_in_a_row: int):
        self.path = path
        self.settings = settings
        self.codec = settings.codec
        self.max_refused_in_a_row = max_refused_in_a_row
        listed = parse_json(read_small_file(path, MAX_LIST_BYTES), str(path))
        prefix, entries = (listed.get("prefix"), listed.get("path_list")) if isinstance(listed, dict) else (None, None)
        if not isinstance(prefix, str) or not isinstance(entries, list):
            raise UsageError(f'{path}: expected {{"prefix": "…", "path_list": […]}}, got {listed!r:.100}')
        self.entries = entries
        self.features = _resolve_prefix(path, prefix, feature_folder)

    def __len__(self) -> int:
        return len(self.entries)

    def planned(self) -> Iterator[tuple[Size, PlannedInput]]:
        """Yield every sample with the size of its grid, or (0, 0, 0) and the reason if it is refused.

        Raises JobStoppedError if too many samples in a row are refused.
        """
        known, refused_in_a_row = KnownKeys(), 0
        for size, planned in prefetch_map(self._plan, range(len(self.entries)), _READER_THREADS, 8 * _READER_THREADS):
            if size != REFUSED and not known.is_new(planned.key):
                refusal = RefusedInput("duplicate_key", "another sample of the list has this name")
                size, planned = REFUSED, _refused(planned, refusal)
            refused_in_a_row = refused_in_a_row + 1 if size == REFUSED else 0
            if refused_in_a_row > self.max_refused_in_a_row:
                raise JobStoppedError(
                    f"{self.path}: more than {self.max_refused_in_a_row} samples in a row refused, the last:"
                    f" {planned.uri}: {planned.refused_reason}: {planned.refused_detail}"
                )
            yield size, planned

    def _plan(self, index: int) -> tuple[Size, PlannedInput]:
        try:
            row = self.row(index)
        except RefusedInput as refusal:
            entry = _escaped(str(self.entries[index]))
            return REFUSED, _refused(PlannedInput(index, entry, entry), refusal)
        t, h, w = row.codes_THW.shape
        return (t, h, w), PlannedInput(index, row.key, row.src_uri)

    def read(self, unit: Unit) -> tuple[list[CodeRecord], list[Refusal]]:
        """Read the rows of a unit again; samples that have changed since planning are refused."""
        records, refusals = [], []
        for planned in unit.inputs:
            try:
                records.append(self._read(planned, unit.size))
            except RefusedInput as error:
                detail = _escaped(error.detail)
                refusals.append(Refusal(planned.key, planned.src_index, planned.uri, error.reason, detail))
        return records, refusals

    def _read(self, planned: PlannedInput, size: Size) -> CodeRecord:
        if planned.refused_reason is not None:
            raise RefusedInput(planned.refused_reason, planned.refused_detail or "")
        if planned.src_index >= len(self.entries) or self.entries[planned.src_index] != planned.uri:
            raise UsageError(f"{self.path}: changed since the import started; import it into a new dataset")
        row = self.row(planned.src_index)
        if (row.key, row.codes_THW.shape) != (planned.key, size):
            raise RefusedInput("changed", "name or size changed since the import started")
        return row

    def row(self, index: int) -> CodeRecord:
        """Read one sample.

        Raises RefusedInput if the file is missing, broken or unsafe, or holds no codes of this codebook.
        """
        entry = self.entries[index]
        if not isinstance(entry, str) or not _is_unicode(entry):
            raise RefusedInput("bad_entry", f"path_list[{index}]: expected a path, got {entry!r}")
        content = _read_file(self.features / entry)
        sample = load_torch(content)
        name, text = sample.get("name", entry.removesuffix(".pth")), sample.get("texts")
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
        """Return codes (T, H, W) of the codec's type. Raises RefusedInput if `images` does not hold codes."""
        if not isinstance(images, np.ndarray) or images.ndim not in (2, 3) or not images.size:
            shape = images.shape if isinstance(images, np.ndarray) else type(images).__name__
            raise RefusedInput("bad_codes", f"images: expected integers (h, w) or (t, h, w), got {shape}")
        low, high = int(images.min()), int(images.max())
        if low < 0 or high >= self.codec.codebook_size or max(images.shape) > MAX_SIZE:
            raise RefusedInput(
                "bad_codes", f"images: {low} to {high}, expected 0 to {self.codec.codebook_size - 1}: {images.shape}"
            )
        if images.ndim == 3 and len(images) > 1 and not self.codec.supports_video:
            raise RefusedInput("bad_codes", f"images: {len(images)} frames, but the codec encodes images only")
        return np.ascontiguousarray(images.reshape(-1, *images.shape[-2:]), dtype=self.codec.code_dtype)


def _resolve_prefix(path: Path, prefix: str, feature_folder: str) -> Path:
    """Return the folder of the samples.

    The prefix may be relative to the list's folder, to the folder above it or to the working directory. If everything
    was moved after the export, the samples are still beside the list.
    """
    root = path.parent.parent
    candidates = [] if "://" in prefix else [path.parent / prefix, root / prefix, root / feature_folder]
    return next((candidate for candidate in candidates if candidate.is_dir()), as_path(prefix))


def _read_file(path: Path) -> bytes:
    try:
        return read_small_file(path, MAX_BYTES)
    except UsageError as error:
        reason = "missing" if isinstance(error.__context__, FileNotFoundError) else "unreadable"
        raise RefusedInput(reason, str(error)) from error


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates: JSON and pickle allow them, our files cannot hold them."""
    return _escaped(text) == text


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _refused(planned: PlannedInput, refusal: RefusedInput) -> PlannedInput:
    return planned._replace(refused_reason=refusal.reason, refused_detail=_escaped(refusal.detail))
