"""Exports of many rows per file: numbered shards and a manifest.

codes-00000.tar, codes-00001.tar, …     or codes-00000.parquet, …
__emu3__/manifest.json                  settings, digest, and every shard with its checksum; written last
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from shared.dataset.rows import CodeRecord, SequenceRecord
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.exchange.export_run import ExportRun
from shared.exchange.formats.shard_source import ShardSource
from shared.exchange.manifest import MANIFEST_NAME, ExportedFile, ExportManifest
from shared.exchange.options import ImportOptions
from shared.jobs.signals import StopFlag
from shared.storage.atomic import remove_file
from shared.storage.paths import names_in

_SHARD_NAME = re.compile(r"codes-\d{5}\.(tar|parquet)")
_ROW_OVERHEAD_BYTES = 4096  # an upper bound for the headers, the padding and the JSON of a row in a tar


class ShardFormat(Protocol):
    """A format of files with many rows."""

    suffix: str

    def dump(self, records: Sequence[CodeRecord], settings: DatasetSettings) -> bytes:
        """Return the file that holds these rows, in their order."""
        ...

    def load(self, content: pa.Buffer, where: str) -> Iterator[CodeRecord]:
        """Yield the rows of a file. Raises DatasetError if it is damaged."""
        ...


@dataclass(frozen=True, slots=True)
class ShardedExport:
    """An exchange format of shards in one shard format. Implements `ExchangeFormat`."""

    name: str
    shard_format: ShardFormat
    description: str = f"{MANIFEST_NAME} of an export"

    def export(self, run: ExportRun, stop: StopFlag) -> None:
        """Write the shards and their manifest. An old manifest is deleted before any shard changes."""
        self._check_out(run)
        files: list[ExportedFile] = []
        for records in group_by_size(run.read_rows(), run.options.shard_bytes):
            stop.raise_if_set(f"{len(files)} files written")
            files.append(self._write_shard(run, len(files), records))
        self._delete_others(run, {file.name for file in files})
        ExportManifest(self.name, run.settings, run.digest, run.rows, tuple(files)).write(run.out)

    def _check_out(self, run: ExportRun) -> None:
        run.make_folder()
        if (run.out / "plan.arrow").is_file():
            raise UsageError(f"{run.out}: holds a dataset; export to another folder")
        found = ExportManifest.read(run.out)
        if found and (found.format, found.settings) != (self.name, run.settings):
            raise UsageError(f"{run.out}: holds an export as {found.format} of another dataset; use another folder")

    def _write_shard(self, run: ExportRun, number: int, records: Sequence[CodeRecord]) -> ExportedFile:
        content = self.shard_format.dump(records, run.settings)
        name = f"codes-{number:05d}{self.shard_format.suffix}"
        sha256 = hashlib.sha256(content).hexdigest()
        if run.needs_writing(name, len(content), sha256):
            ExportManifest.remove(run.out)
            run.write(name, content)
        return ExportedFile(name, len(content), sha256, len(records))

    def _delete_others(self, run: ExportRun, names: set[str]) -> None:
        """Delete shards of an earlier export that this one does not have."""
        others = [run.out / name for name in names_in(run.out) if _SHARD_NAME.fullmatch(name) and name not in names]
        for path in others:
            ExportManifest.remove(run.out)
            remove_file(path)

    def recognizes(self, path: Path) -> bool:
        manifest = ExportManifest.read(path)
        return manifest is not None and manifest.format == self.name

    def open(self, path: Path, options: ImportOptions) -> ShardSource:
        if options.codec is not None:
            raise UsageError(f"{options.source}: the manifest of an export describes the codec; leave the codec out")
        return ShardSource(path, self.shard_format.load)


def group_by_size(rows: Iterable[CodeRecord], shard_bytes: int) -> Iterator[list[CodeRecord]]:
    """Split rows into lists that fit into a file of `shard_bytes`, with at least one row each."""
    group: list[CodeRecord] = []
    size_bytes = 0
    for row in rows:
        row_bytes = max_row_bytes(row)
        if group and size_bytes + row_bytes > shard_bytes:
            yield group
            group, size_bytes = [], 0
        group.append(row)
        size_bytes += row_bytes
    if group:
        yield group


def max_row_bytes(row: CodeRecord) -> int:
    """Return an upper bound for the size of a row in a tar; Parquet is smaller."""
    texts = [row.key, row.text or "", row.src_uri, row.extra_json or ""]
    size_bytes = row.codes_THW.nbytes + _ROW_OVERHEAD_BYTES
    if isinstance(row, SequenceRecord):
        texts += [row.prompt, row.negative_prompt or "", row.sampling_json, row.error or ""]
        size_bytes += 8 * len(row.tokens or ())
    return size_bytes + 6 * sum(map(len, texts))  # a character takes up to six bytes in JSON
