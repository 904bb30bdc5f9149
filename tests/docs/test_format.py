"""docs/format.md is complete: a reader written from its text alone computes the digest that `emu3 verify` prints.

Between the two marks nothing of this project is used.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from tests.support import small_datasets

# ---- the independent reader ----


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def checked(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    value = json.loads(data)
    check = value.pop("check")
    assert hashlib.sha256(canonical(value)).hexdigest() == check
    assert canonical({**value, "check": check}) + b"\n" == data
    return value


def arrow(path: Path, sha256: str) -> pa.RecordBatchFileReader:
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256
    if not path.name.startswith("plan"):
        assert path.name.split(".")[1] == sha256[:12]
    return pa.ipc.open_file(data)


def batches(root: Path, record: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    if (root / "parts" / record["part"]).exists():
        reader = arrow(root / "parts" / record["part"], record["part_sha256"])
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        return
    for shard in checked(root / "manifest.json")["shards"]:
        for unit, first, count in shard["units"]:
            if unit == record["unit"]:
                reader = arrow(root / "shards" / shard["shard"], shard["sha256"])
                yield from (reader.get_batch(index) for index in range(first, first + count))


def row_digest(row: dict[str, Any], codebook_size: int) -> bytes:
    codes = row.pop("codes")
    packed = struct.pack(f"<{len(codes)}{'H' if codebook_size <= 65536 else 'I'}", *codes)
    assert zlib.crc32(packed) == row.pop("codes_crc32")
    assert len(codes) == row["t"] * row["h"] * row["w"]
    row["src_sha256"] = row["src_sha256"].hex()
    return hashlib.sha256(canonical(row) + b"\0" + packed).digest()


def fingerprints(settings: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in ("codec", "preprocessing", "generation") if name in settings]
    return {"format": settings.get("format", "emu3.codes/1"), **{name: settings[name] for name in names}}


def dataset_digest(root: Path) -> str:
    total, rows, planned, refused = 0, 0, 0, 0
    plans = [pa.ipc.open_file(path.read_bytes()) for path in sorted(root.glob("plan*.arrow"))]
    plan_sha256s = {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob("plan*.arrow")}
    settings = json.loads(plans[0].schema.metadata[b"emu3"])["settings"]
    planned = sum(json.loads(plan.schema.metadata[b"emu3"])["inputs"] for plan in plans)
    for path in sorted((root / "parts").glob("*.json")):
        record = checked(path)
        assert record["plan_sha256"] in plan_sha256s
        if record["quarantine"]:
            lines = (root / "quarantine" / record["quarantine"]).read_bytes()
            assert hashlib.sha256(lines).hexdigest() == record["quarantine_sha256"]
            refused += len([json.loads(line) for line in lines.decode().split("\n") if line])
        for batch in batches(root, record):
            assert batch.num_rows <= 256
            for row in batch.to_pylist():
                digest = row_digest(row, settings["codec"]["codebook_size"])
                total = (total + int.from_bytes(digest, "big")) % 2**256
                rows += 1
    assert rows + refused == planned
    header = canonical({"fingerprints": fingerprints(settings), "rows": rows})
    return hashlib.sha256(header + b"\0" + total.to_bytes(32, "big")).hexdigest()


def row_of_key(root: Path, key: str) -> dict[str, Any]:
    """Find a row by the index of a sealed dataset."""
    manifest = checked(root / "manifest.json")
    shards = manifest["shards"]
    index = arrow(root / "index" / manifest["index"]["file"], manifest["index"]["sha256"])
    assert json.loads(index.schema.metadata[b"shards"]) == shards
    wanted = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    entries = index.read_all().to_pylist()
    assert [entry["key_hash"] for entry in entries] == sorted(entry["key_hash"] for entry in entries)
    [entry] = [entry for entry in entries if entry["key_hash"] == wanted and entry["key"] == key]
    [(shard, first)] = [(s, f) for s in shards for unit, f, _ in s["units"] if unit == entry["unit"]]
    batch = arrow(root / "shards" / shard["shard"], shard["sha256"]).get_batch(first + entry["batch"])
    row = batch.to_pylist()[entry["row"]]
    assert [row[name] for name in "thw"] == [entry[name] for name in "thw"]
    assert len((row["text"] or "").encode()) == entry["text_length"]
    return dict(row)


# ---- the end of the independent reader ----

WIDE_SETTINGS = replace(small_datasets.CODES_SETTINGS, codec=small_datasets.WIDE_CODEC)
SAMPLES: dict[str, Any] = {
    "codes": (small_datasets.code_rows, small_datasets.CODES_SETTINGS),
    "codes of 32 bits": (partial(small_datasets.code_rows, small_datasets.WIDE_CODEC), WIDE_SETTINGS),
    "imported": (small_datasets.code_rows, replace(small_datasets.CODES_SETTINGS, imported={"from": "upstream list"})),
    "sequences": (small_datasets.sequence_rows, small_datasets.SEQUENCE_SETTINGS),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_reader_computes_the_digest_that_verify_prints(sample: str, tmp_path: Path) -> None:
    rows, settings = SAMPLES[sample]
    root = tmp_path / "dataset"
    small_datasets.write_dataset(root, rows(), settings)
    digest = small_datasets.digest(root)
    assert dataset_digest(root) == digest
    seal(SealOptions(str(root), shard_bytes=4096))
    assert not list((root / "parts").glob("*.arrow"))
    assert dataset_digest(root) == digest
    for row in rows():
        assert row_digest(row_of_key(root, row.key), settings.codec.codebook_size) == row.digest()


def test_the_reader_reads_refused_inputs(tmp_path: Path) -> None:
    from tests.support import handmade

    dataset = handmade.make(tmp_path / "dataset")
    assert dataset_digest(dataset.root) == small_datasets.digest(dataset.root)
