"""Writes a dataset's rows in other formats: WebDataset tars, Parquet, or upstream's file a sample.

Equal rows give equal files. Files come under their names whole, and what lists them comes last; what is there
already with the same bytes is not written again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.rows import CodeRecord, DatasetDigest, SequenceRecord
from shared.errors import DatasetError, UsageError
from shared.exchange.formats.upstream import FEATURES, LIST, dump_list, dump_sample, sample_name
from shared.exchange.manifest import MANIFEST, ROW_FORMATS, ExportedFile, ExportManifest
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage.atomic import temporary_beside, write_file
from shared.storage.paths import as_path, is_local, make_directory, names_in, sha256_of

FORMATS = (*ROW_FORMATS, "pth")
_ROW_OVERHEAD = 4096  # headers, paddings and JSON of a row in a tar, rounded up


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """`shard_bytes` bounds a file of many rows. `prefix` is what upstream's list says about where features are;
    the absolute path of `out` if not given."""

    dataset: str
    out: str
    format: str = "webdataset"
    shard_bytes: int = 256 << 20
    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"--format {self.format}: expected one of {', '.join(FORMATS)}")
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-mb: expected more than 0, got {self.shard_bytes} bytes")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What there is now, how many files of it this run wrote, and rows without codes, which `pth` cannot hold."""

    rows: int
    files: int
    bytes: int
    written: int
    left_out: int
    digest: str


def export(options: ExportOptions) -> ExportResult:
    """Raises DatasetError if units are missing or damaged, UsageError if `out` holds something else."""
    dataset = Dataset.open(options.dataset)
    plan = dataset.plan()
    if missing := dataset.missing_units(plan):
        raise DatasetError(f"{options.dataset}: {len(missing)} of {len(plan)} units are missing: finish it first")
    job = ExportJob(options, dataset, plan)
    with stop_on_signals() as stop:
        left_out = job.write_samples(stop) if options.format == "pth" else job.write_shards(stop)
    return ExportResult(job.rows, job.files, job.bytes, job.written, left_out, job.digest.hexdigest())


class ExportJob:
    """One run of an export, with what it has counted so far."""

    def __init__(self, options: ExportOptions, dataset: Dataset, plan: Plan):
        self.options, self.dataset, self.plan = options, dataset, plan
        self.out = as_path(options.out)
        self.fingerprints = plan.settings.fingerprints()
        self.digest = DatasetDigest(self.fingerprints)
        self.rows = self.files = self.bytes = self.written = 0

    def read(self) -> Iterator[CodeRecord]:
        """All rows in order, counted and shown."""
        records = list(self.dataset.commit_records())
        with tqdm(total=sum(record.rows for record in records), desc="export", unit="row", disable=None) as bar:
            for record in records:
                for row in self.dataset.rows(record):
                    self.digest.add([row.digest()])
                    self.rows += 1
                    yield row
                    bar.update()

    def write_shards(self, stop: StopFlag) -> int:
        """Numbered files and their manifest, which goes away first if they change."""
        self._check_out()
        row_format, listed = ROW_FORMATS[self.options.format], list[ExportedFile]()
        for number, group in enumerate(grouped(self.read(), self.options.shard_bytes)):
            stop.raise_if_set(f"{len(listed)} files written")
            content = row_format.write(group, self.plan.settings)
            name = f"codes-{number:05d}{row_format.suffix}"
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256_of(self.out / name) != sha256:
                (self.out / MANIFEST).unlink(missing_ok=True)
                self._write(self.out / name, content)
            listed.append(ExportedFile(name, len(content), sha256, len(group)))
            self.bytes += len(content)
        self.files = len(listed)
        self._finish(listed)
        return 0

    def _check_out(self) -> None:
        make_directory(self.out)
        if (self.out / "plan.arrow").is_file():
            raise UsageError(f"{self.out}: holds a dataset; export to another folder")
        path = self.out / MANIFEST
        if not path.is_file():
            return
        found = ExportManifest.from_json(path.read_bytes(), str(path))
        if (found.rows_as, found.settings) != (self.options.format, self.plan.settings):
            raise UsageError(f"{self.out}: holds an export as {found.rows_as} of another dataset; use another folder")

    def _finish(self, listed: list[ExportedFile]) -> None:
        """Removes numbered files of an earlier export that this one has not, and writes the manifest."""
        names, pattern = {file.file for file in listed}, re.compile(r"codes-\d{5}\.(tar|parquet)")
        if stray := [name for name in names_in(self.out) if pattern.fullmatch(name) and name not in names]:
            (self.out / MANIFEST).unlink(missing_ok=True)
            for name in stray:
                (self.out / name).unlink(missing_ok=True)
        manifest = ExportManifest(
            self.options.format,
            self.plan.settings,
            self.fingerprints,
            self.digest.hexdigest(),
            self.rows,
            tuple(listed),
        ).to_json()
        if not (self.out / MANIFEST).is_file() or (self.out / MANIFEST).read_bytes() != manifest:
            write_file(self.out / MANIFEST, manifest)

    def write_samples(self, stop: StopFlag) -> int:
        """A file a sample, then the list of them. Returns how many rows have no codes to write."""
        features, names, left_out = self.out / FEATURES, list[str](), 0
        make_directory(features)
        make_directory((self.out / LIST).parent)
        for row in self.read():
            stop.raise_if_set(f"{len(names)} samples written")
            if not row.has_grid:
                left_out += 1
                continue
            names.append(sample_name(row.key))
            content = dump_sample(row)
            if sha256_of(features / names[-1]) != hashlib.sha256(content).hexdigest():
                self._write_unsynced(features / names[-1], content)
            self.bytes += len(content)
        if is_local(self.out):
            os.sync()  # once before the list, not once a sample
        prefix = self.options.prefix or str(features.absolute())
        write_file(self.out / LIST, dump_list(prefix, names))
        self.files = len(names)
        return left_out

    def _write(self, path: Path, content: bytes) -> None:
        write_file(path, content)
        self.written += 1

    def _write_unsynced(self, path: Path, content: bytes) -> None:
        if not is_local(path):
            self._write(path, content)
            return
        temporary = temporary_beside(path)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self.written += 1


def grouped(rows: Iterable[CodeRecord], shard_bytes: int) -> Iterator[list[CodeRecord]]:
    """Runs of rows that fit into a file of `shard_bytes`, at least one row each."""
    group: list[CodeRecord] = []
    size_bytes = 0
    for row in rows:
        row_bytes = row_size_bytes(row)
        if group and size_bytes + row_bytes > shard_bytes:
            yield group
            group, size_bytes = [], 0
        group.append(row)
        size_bytes += row_bytes
    if group:
        yield group


def row_size_bytes(row: CodeRecord) -> int:
    """What a row takes in a tar at most; Parquet is smaller."""
    texts = [row.key, row.text or "", row.src_uri, row.extra_json or ""]
    size_bytes = row.codes_THW.nbytes + _ROW_OVERHEAD
    if isinstance(row, SequenceRecord):
        texts += [row.prompt, row.negative_prompt or "", row.sampling_json, row.error or ""]
        size_bytes += 8 * len(row.tokens or ())
    return size_bytes + 6 * sum(map(len, texts))
