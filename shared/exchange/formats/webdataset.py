"""Rows as WebDataset tars.

    <name>.codes.npy    uint16 or uint32 (T, H, W), as in the dataset
    <name>.json         all other columns, the key among them; also `text` as null if the row has no text
    <name>.txt          the text; empty if the row has none, because some readers expect every sample to have the same
                        members

Names are `safe_name(key)`. Times, owners and modes are fixed, so that equal rows give equal bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from shared.dataset.columns import columns_of
from shared.dataset.rows import CodeRecord, SequenceRecord, as_stored
from shared.dataset.settings import DatasetSettings
from shared.errors import DatasetError
from shared.exchange.formats.safe_names import safe_name
from shared.storage.digests import canonical_json
from shared.storage.small_files import parse_json_object

_COLUMNS_OF_OTHER_MEMBERS = ("codes", "text")
_DERIVED_COLUMNS = ("t", "h", "w", "codes_crc32")


class WebDataset:
    """Tars of rows. Implements `ShardFormat`."""

    suffix = ".tar"

    def dump(self, records: Sequence[CodeRecord], settings: DatasetSettings) -> bytes:
        """Return one tar of these rows, in their order."""
        from webdataset.writer import TarWriter

        sink = io.BytesIO()
        with TarWriter(sink, user="", group="", mode=0o644, encoder=False, mtime=0) as writer:
            for record in records:
                writer.write({"__key__": safe_name(record.key), **dump_members(record)})
        return sink.getvalue()

    def load(self, content: pa.Buffer, where: str) -> Iterator[CodeRecord]:
        """Yield the rows of a tar without unpacking it to disk. Raises DatasetError if it is damaged."""
        try:
            with tarfile.open(fileobj=pa.BufferReader(content), mode="r:") as archive:
                for name, group in groupby(archive, key=lambda member: member.name.partition(".")[0]):
                    members = {member.name.partition(".")[2]: _content(archive, member) for member in group}
                    yield load_members(members, f"{where}: {name}")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DatasetError(f"{where}: expected a tar of codes: {error}; export it again") from error


def dump_members(record: CodeRecord) -> dict[str, bytes]:
    """Return the contents of a row's members by suffix."""
    columns = _columns(record) if record.text is not None else {**_columns(record), "text": None}
    text = (record.text or "").encode()
    return {"codes.npy": _npy(record.codes_THW), "json": canonical_json(columns).encode(), "txt": text}


def _columns(record: CodeRecord) -> dict[str, Any]:
    """Return all columns of a row except codes and text, as JSON values."""
    elsewhere = (*_COLUMNS_OF_OTHER_MEMBERS, "t", "h", "w")
    values = {name: getattr(record, name) for name in record.columns.names if name not in elsewhere}
    t, h, w = record.codes_THW.shape
    return {**values, "t": t, "h": h, "w": w, "src_sha256": record.src_sha256.hex()}


def _npy(codes_THW: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array(sink, as_stored(codes_THW), version=(1, 0), allow_pickle=False)
    return sink.getvalue()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    return file.read() if file else b""


def load_members(members: dict[str, bytes], where: str) -> CodeRecord:
    """Return the row that `dump_members` wrote. Raises DatasetError if the members do not match."""
    try:
        codes_THW = np.lib.format.read_array(io.BytesIO(members["codes.npy"]), allow_pickle=False)
        columns = parse_json_object(members["json"], where, DatasetError)
        has_text = "txt" in members and columns.pop("text", "") is not None
        text = members["txt"].decode() if has_text else None
        record = _record(columns, codes_THW, text)
    except (ValueError, KeyError, TypeError, EOFError, MemoryError) as error:
        raise DatasetError(f"{where}: expected .codes.npy, .json and .txt of a row: {error!r}") from error
    if _columns(record) != columns:
        raise DatasetError(f"{where}: codes do not match the checksum or size in .json; export it again")
    return record


def _record(columns: dict[str, Any], codes_THW: np.ndarray, text: str | None) -> CodeRecord:
    record_class = SequenceRecord if "prompt" in columns else CodeRecord
    expected = {*columns_of(record_class.format, codes_THW.dtype.name).names} - {*_COLUMNS_OF_OTHER_MEMBERS}
    if set(columns) != expected:
        raise ValueError(f"columns {', '.join(sorted(expected ^ set(columns)))} are missing or unknown")
    values = {name: value for name, value in columns.items() if name not in _DERIVED_COLUMNS}
    values["src_sha256"] = bytes.fromhex(columns["src_sha256"])
    return record_class(codes_THW=codes_THW, text=text, **values)
