"""Files of `torch.save`: read by torch, and read without it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from shared.errors import RefusedInput
from shared.exchange.formats.torch_files import dump_torch, load_torch

CODES = np.arange(6).reshape(2, 3)


def test_a_written_file_is_read_back_and_always_the_same() -> None:
    text = "same text twice"
    first = dump_torch({"name": text, "images": CODES, "texts": text})
    assert first == dump_torch({"name": text, "images": CODES.copy(), "texts": "".join(["same text", " twice"])})
    found = load_torch(first)
    assert (found["name"], found["texts"]) == (text, text)
    assert found["images"].dtype == np.int64
    assert found["images"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.filterwarnings("default")
def test_torch_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "ours.pth").write_bytes(dump_torch({"name": "ключ", "images": CODES, "texts": ""}))
    found = torch.load(tmp_path / "ours.pth", weights_only=False)
    assert (found["name"], found["texts"], found["images"].dtype) == ("ключ", "", np.int64)
    assert np.array_equal(found["images"], CODES)
    tensor = torch.from_numpy(CODES)
    for images in (CODES, tensor, tensor.int(), tensor.short(), torch.arange(10)[2:8].reshape(3, 2).T, tensor[:, 1:]):
        torch.save({"name": "a", "images": images, "texts": "b"}, tmp_path / "theirs.pth")
        read = load_torch((tmp_path / "theirs.pth").read_bytes())
        assert read["images"].tolist() == images.tolist()
    torch.save({"images": tensor.float()}, tmp_path / "theirs.pth")
    with pytest.raises(RefusedInput, match=r"unsafe_pickle: asks for torch\.FloatStorage"):
        load_torch((tmp_path / "theirs.pth").read_bytes())
    torch.save({"images": tensor}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(RefusedInput, match=r"unsupported: .* torch 1\.6"):
        load_torch((tmp_path / "old.pth").read_bytes())


def test_a_zip_bomb_is_not_unpacked() -> None:
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(RefusedInput, match="unsupported: 314572800 bytes unpacked"):
        load_torch(sink.getvalue())
