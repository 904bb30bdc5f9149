"""Rows as WebDataset tars: `<name>.codes.npy` (uint16, t×h×w), `<name>.json` and, of a row with a text, `<name>.txt`.

The JSON holds all other columns of the row, the true key among them; names are `safe_name(key)`. Times, owners and
modes are fixed, so that equal rows give equal bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from shared.dataset.rows import SCHEMA, SEQUENCE_SCHEMA, CodeRecord, SequenceRecord
from shared.errors import DatasetError, ShapeError
from shared.exchange.formats.safe_names import safe_name
from shared.storage.digests import canonical_json

_OWN_MEMBERS = ("codes", "text")
_GRID = ("t", "h", "w", "codes_crc32")


def write_tar(records: Iterable[CodeRecord]) -> bytes:
    """One tar of these rows, in their order."""
    from webdataset.writer import TarWriter

    sink = io.BytesIO()
    with TarWriter(sink, user="", group="", mode=0o644, encoder=False, mtime=0) as writer:
        for record in records:
            writer.write({"__key__": safe_name(record.key), **members(record)})
    return sink.getvalue()


def members(record: CodeRecord) -> dict[str, bytes]:
    """Contents of a row's members by their endings."""
    text = {} if record.text is None else {"txt": record.text.encode()}
    return {"codes.npy": _npy(record.codes_THW), "json": canonical_json(columns(record)).encode(), **text}


def columns(record: CodeRecord) -> dict[str, Any]:
    """All columns of a row but codes and text, as values for JSON."""
    values = {name: getattr(record, name) for name in record.schema.names if name not in (*_OWN_MEMBERS, "t", "h", "w")}
    t, h, w = record.codes_THW.shape
    return {**values, "t": t, "h": h, "w": w, "src_sha256": record.src_sha256.hex()}


def _npy(codes_THW: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array(sink, np.ascontiguousarray(codes_THW, "<u2"), version=(1, 0), allow_pickle=False)
    return sink.getvalue()


def read_tar(content: pa.Buffer, where: str) -> Iterator[CodeRecord]:
    """The rows of a tar, one after the other; nothing is written to disk. Raises DatasetError if one is damaged."""
    try:
        with tarfile.open(fileobj=pa.BufferReader(content), mode="r:") as archive:
            for name, found in groupby(archive, key=lambda member: member.name.partition(".")[0]):
                parts = {member.name.partition(".")[2]: _content(archive, member) for member in found}
                yield from_members(parts, f"{where}: {name}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError(f"{where}: expected a tar of codes: {error}; export it again") from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    return file.read() if file else b""


def from_members(parts: dict[str, bytes], where: str) -> CodeRecord:
    """The row whose members these are. Raises DatasetError if they are not what `members` gives."""
    try:
        codes_THW = np.load(io.BytesIO(parts["codes.npy"]), allow_pickle=False)
        values = json.loads(parts["json"])
        text = parts["txt"].decode() if "txt" in parts else None
        record = _record(values, codes_THW, text)
    except (ValueError, KeyError, TypeError, EOFError, ShapeError) as error:
        raise DatasetError(f"{where}: expected .codes.npy, .json and .txt of a row: {error!r}") from error
    if columns(record) != values:
        raise DatasetError(f"{where}: codes do not match the checksum or size in .json; export it again")
    return record


def _record(values: dict[str, Any], codes_THW: np.ndarray, text: str | None) -> CodeRecord:
    is_sequence = "prompt" in values
    expected = {*(SEQUENCE_SCHEMA if is_sequence else SCHEMA).names} - {*_OWN_MEMBERS}
    if set(values) != expected:
        raise ValueError(f"columns {', '.join(sorted(expected ^ set(values)))} are missing or not known")
    others = {name: value for name, value in values.items() if name not in _GRID}
    others["src_sha256"] = bytes.fromhex(values["src_sha256"])
    return (SequenceRecord if is_sequence else CodeRecord)(codes_THW=codes_THW, text=text, **others)
