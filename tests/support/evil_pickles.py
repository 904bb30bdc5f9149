"""Zips of `torch.save` around any pickle, and pickles that would run something."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any


def torch_zip(pickled: bytes, **members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in {"data.pkl": pickled, "version": b"3\n", **members}.items():
            archive.writestr(f"archive/{name}", data)
    return sink.getvalue()


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def evil_pickles(path: Path) -> list[bytes]:
    call = f"cos\nsystem\n(S'touch {path}'\ntR."
    return [pickle.dumps({"name": "a", "images": Evil(path)}, protocol=protocol) for protocol in (0, 1, 2, 3, 4, 5)] + [
        call.encode(),
        f"(S'touch {path}'\nios\nsystem\n.".encode(),  # INST
        b"\x80\x02cbuiltins\neval\n(X\x04\0\0\0open\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dmemmap\x93.",
        b"\x80\x02cnumpy\ndtype\n}b.",  # changes what it named
        b"\x80\x02c_codecs\nencode\n}b.",
        b"\x80\x02cnumpy\ndtype\nX\x01\0\0\0O\x85R.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of 2**31 entries
        b"\x80\x02X\x04\0\0\0kindQ.",
        b"no pickle",
        b"",
    ]
