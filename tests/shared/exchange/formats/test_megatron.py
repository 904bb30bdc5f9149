"""Files for Megatron: read back by a reader of the documented format, and by Megatron's own where it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.exchange.formats import megatron
from shared.exchange.formats.megatron import MegatronWriter, token_dtype
from tests.support.megatron_reader import read_documents

DTYPES = ("uint8", "uint16", "int32", "float32")
LENGTHS = (5, 1, 1, 300, 7)
READ_BY_MEGATRON = """
import json, sys
from megatron.core.datasets.indexed_dataset import IndexedDataset
dataset = IndexedDataset(sys.argv[1])
documents = dataset.document_indices.tolist()
print(json.dumps([str(dataset.index.dtype().dtype), documents, [dataset[i].tolist() for i in range(len(dataset))]]))
"""

ROWS_OF_MEGATRON = """
import json, sys
import numpy as np
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
class Vocabulary:
    eod, pad, vocab_size, unique_identifiers = 1, 0, 1000, {}
prefix, length, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = GPTDatasetConfig(
    random_seed=1, sequence_length=length, blend=([prefix], None), split="1,0,0", reset_position_ids=False,
    reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False, tokenizer=Vocabulary(),
    path_to_cache=prefix + "-cache",
)
indices = np.arange(count, dtype=np.int32)
dataset = GPTDataset(IndexedDataset(prefix), prefix, indices, None, Split.train, config)
print(json.dumps([dataset[i]["tokens"].tolist() for i in range(len(dataset))]))
"""
needs_megatron = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "megatron"))), reason="needs torch and megatron-core"
)


def elements_of(dtype: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 200, length).astype(dtype) for length in LENGTHS]


def write(prefix: Path, dtype: str, documents: Sequence[np.ndarray], is_complete: bool = True) -> None:
    writer = MegatronWriter(prefix, dtype)
    for document in documents:
        writer.add(document)
    writer.close(is_complete=is_complete)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_per_block", [1, 2, 3, 100])
def test_documents_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, rows_per_block: int) -> None:
    monkeypatch.setattr(megatron, "_ROWS_PER_BLOCK", rows_per_block)
    written = elements_of(dtype)
    write(tmp_path / "tokens", dtype, written)
    read = read_documents(tmp_path / "tokens")
    assert [one.tolist() for one in read] == [one.tolist() for one in written]
    assert {one.dtype for one in read} == {np.dtype(dtype)}


def output_of(script: str, *arguments: object) -> Any:
    """Run a script with Megatron in a process of its own; return what it prints as JSON on its last line."""
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@needs_megatron
@pytest.mark.parametrize("dtype", DTYPES)
def test_megatron_reads_the_same_documents(tmp_path: Path, dtype: str) -> None:
    written = elements_of(dtype)
    write(tmp_path / "tokens", dtype, written)
    expected = [dtype, list(range(len(LENGTHS) + 1)), [one.tolist() for one in written]]
    assert output_of(READ_BY_MEGATRON, tmp_path / "tokens") == expected


@needs_megatron
def test_megatron_does_not_cut_rows_of_its_own_length(tmp_path: Path) -> None:
    """The last row of an epoch has no token behind it, which Megatron wants as a label, and is left out."""
    rows = [np.arange(100 * number, 100 * number + 16) for number in range(2, 9)]
    write(tmp_path / "tokens", "int32", rows)
    read = output_of(ROWS_OF_MEGATRON, tmp_path / "tokens", 16, len(rows))
    assert len(read) == len(rows) - 1
    assert {tuple(row) for row in read} < {tuple(row.tolist()) for row in rows}


def test_an_incomplete_file_has_no_index(tmp_path: Path) -> None:
    write(tmp_path / "tokens", "uint16", elements_of("uint16"), is_complete=False)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.bin"]


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "tokens", "uint16", elements_of("uint16"))
    with pytest.raises(FileExistsError):
        MegatronWriter(tmp_path / "tokens", "uint16")


def test_the_type_of_tokens_is_megatrons_choice() -> None:
    assert [token_dtype(size) for size in (512, 65_499, 65_500, 184_622)] == ["uint16", "uint16", "int32", "int32"]
