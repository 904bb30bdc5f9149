"""Updates of texts: captions and labels that replace those of rows which keep their codes.

texts/texts-0001.<hash>.arrow   the rows `key, text, extra_json` of one update, sorted by a hash of the key
texts/texts-0001.json           its record, created once and never changed

Updates are numbered from 1, and a later one takes precedence. Readers see a whole update or none of it: an update
exists only through its record. Parts and shards keep the texts with which their rows were encoded, so that their
checksums stay valid; whoever reads rows applies the updates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from shared.dataset.arrow_file import ArrowFile, dump_batches
from shared.dataset.key_index import hash_of_key
from shared.dataset.plan import Plan
from shared.errors import DatasetError
from shared.storage.atomic import create_file, write_hashed_file
from shared.storage.checked_json import dump_checked_json, read_checked_json
from shared.storage.digests import digest_of
from shared.storage.paths import is_file_name, names_in

_SCHEMA = pa.schema(
    [
        pa.field("key_hash", pa.uint64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("extra_json", pa.string()),
    ]
)
_COLUMNS = ("text", "extra_json")
_RECORD_NAME = re.compile(r"texts-\d{4,}\.json")
_ROWS_PER_BATCH = 1 << 16  # a column of strings in one batch holds at most 2 GiB


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The caption and the labels of one row; None for a row without them."""

    key: str
    text: str | None
    extra_json: str | None


class TextUpdates:
    """All updates of a dataset, memory-mapped.

    Raises DatasetError if a file is missing, damaged, or belongs to another plan.
    """

    def __init__(self, directory: Path, plan: Callable[[], Plan]):
        self.directory = directory
        self._plan = plan
        self._updates: list[_Update] = []
        for name in sorted(filter(_RECORD_NAME.fullmatch, names_in(directory))):
            expected = self._next_record()
            if name != expected.name:
                raise DatasetError(f"{expected}: missing, although there is {name}; restore it")
            self._updates.append(_Update(expected, self._plan_sha256))

    @cached_property
    def _plan_sha256(self) -> str:
        return self._plan().sha256

    def __len__(self) -> int:
        """Return the number of updates."""
        return len(self._updates)

    @property
    def sha256(self) -> str:
        """The digest of all updates, 64 hex digits."""
        return digest_of([update.sha256 for update in self._updates])

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch of rows with its current texts."""
        if not self._updates:
            return batch
        columns = [batch.column(name).to_pylist() for name in ("key", *_COLUMNS)]
        current = self.current([RowTexts(*values) for values in zip(*columns)])
        for name in _COLUMNS:
            index = batch.schema.get_field_index(name)
            values = pa.array([getattr(texts, name) for texts in current], batch.schema.field(index).type)
            batch = batch.set_column(index, batch.schema.field(index), values)
        return batch

    def current(self, rows: Sequence[RowTexts]) -> list[RowTexts]:
        """Return the current texts of rows, given those with which they were encoded."""
        current, hashes = list(rows), np.array([hash_of_key(row.key) for row in rows], np.uint64)
        for update in self._updates:
            for index, texts in update.find(hashes):
                if texts.key == current[index].key:  # two keys can have one hash
                    current[index] = texts
        return current

    def append(self, rows: Sequence[tuple[RowTexts, RowTexts]]) -> int:
        """Write one more update, given pairs (texts of the encoding, wanted texts); return the number of changes.

        Another job may write an update at the same time: then this one follows it.
        """
        encoded, wanted = [pair[0] for pair in rows], [pair[1] for pair in rows]
        while changed := [texts for texts, now in zip(wanted, self.current(encoded)) if texts != now]:
            path = self._next_record()
            is_written = _write(path, changed, self._plan_sha256)
            self._updates.append(_Update(path, self._plan_sha256))
            if is_written:
                return len(changed)
        return 0

    def _next_record(self) -> Path:
        return self.directory / f"texts-{len(self._updates) + 1:04d}.json"


class _Update:
    """The rows of one update."""

    def __init__(self, record_path: Path, plan_sha256: str):
        record = read_checked_json(record_path)
        name, stem = str(record.get("texts")), record_path.stem
        if not is_file_name(name) or not name.startswith(f"{stem}."):
            raise DatasetError(f"{record_path}: expected the record of an update of texts, got {record!r:.200}")
        if record.get("plan_sha256") != plan_sha256:
            raise DatasetError(f"{record_path}: belongs to another plan; remove it, or restore the plan")
        advice = "restore it, or remove it with its record and run `emu3 encode --update-texts`"
        file = ArrowFile(record_path.with_name(name), _SCHEMA.equals, advice)
        self.sha256 = file.compute_sha256()
        if self.sha256 != record.get("texts_sha256"):
            raise DatasetError(f"{file.path}: damaged: sha256 {self.sha256[:12]}; {advice}")
        self._table = pa.Table.from_batches(list(file.batches()), schema=_SCHEMA)
        self._hashes = self._table.column("key_hash").to_numpy()

    def find(self, hashes: np.ndarray) -> Iterable[tuple[int, RowTexts]]:
        """Yield (index in `hashes`, texts) for every row of the update with one of these hashes, uint64."""
        firsts = np.searchsorted(self._hashes, hashes, "left")
        ends = np.searchsorted(self._hashes, hashes, "right")
        for index in np.flatnonzero(firsts < ends).tolist():
            for row in self._table.slice(int(firsts[index]), int(ends[index] - firsts[index])).to_pylist():
                yield index, RowTexts(row["key"], row["text"], row["extra_json"])


def _write(record_path: Path, rows: Iterable[RowTexts], plan_sha256: str) -> bool:
    """Write an update. Returns False, and changes nothing that readers see, if its number is taken."""
    by_hash = sorted(((hash_of_key(row.key), row.key, row.text, row.extra_json) for row in rows), key=itemgetter(0, 1))
    groups = (by_hash[start : start + _ROWS_PER_BATCH] for start in range(0, len(by_hash), _ROWS_PER_BATCH))
    content = dump_batches(map(_batch, groups), _SCHEMA)
    name, sha256 = write_hashed_file(record_path.parent, record_path.stem, content, "arrow")
    record = {"texts": name, "texts_sha256": sha256, "rows": len(by_hash), "plan_sha256": plan_sha256}
    return create_file(record_path, dump_checked_json(record))


def _batch(rows: Sequence[tuple[int, str, str | None, str | None]]) -> pa.RecordBatch:
    columns = [pa.array(list(values), field.type) for values, field in zip(zip(*rows), _SCHEMA)]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)
