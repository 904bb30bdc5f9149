"""Files of `torch.save`, written and read without torch.

A file is a zip with a pickle and the bytes of tensors. Source: PyTorch serialization notes.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from shared.errors import RefusedInput
from shared.exchange.formats.restricted_pickle import load_pickle

MAX_BYTES = 256 << 20
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_NAME = "data.pkl"
_DAMAGED = (zipfile.BadZipFile, EOFError, OSError, struct.error, zlib.error)


def dump_torch(value: Mapping[str, Any]) -> bytes:
    """Return a file that `torch.load` reads, with texts and arrays by name. Equal values give equal bytes."""
    # Texts are copied, because pickle writes an object that occurs twice only once.
    copied = {name: item.encode().decode() if isinstance(item, str) else item for name, item in value.items()}
    entries = {_PICKLE_NAME: pickle.dumps(copied, protocol=2), "byteorder": b"little", "version": b"3\n"}
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(f"archive/{name}")  # dated 1980-01-01
            info.create_system = 3
            archive.writestr(info, content)
    return sink.getvalue()


def load_torch(content: bytes) -> dict[str, Any]:
    """Return the dictionary in a file, with tensors and arrays as numpy arrays of integers.

    Raises RefusedInput with one of the reasons `truncated`, `unsupported` (not a file of torch 1.6 or later) and
    `unsafe_pickle` (it asks for anything but texts, containers and arrays of integers).
    """
    members = _read_members(content)
    return load_pickle(members[_PICKLE_NAME], members)


def _read_members(content: bytes) -> dict[str, bytes]:
    """Return the members of the zip by their names within its root folder."""
    if not content.startswith(_ZIP_MAGIC):
        reason = "truncated" if len(content) < len(_ZIP_MAGIC) else "unsupported"
        raise RefusedInput(reason, "expected a zip of torch.save; load and save older files with torch 1.6 or later")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        pickles = (name for name in archive.namelist() if name.endswith(f"/{_PICKLE_NAME}"))
        root = next(pickles, "").removesuffix(_PICKLE_NAME)
        if not root:
            raise RefusedInput("unsupported", f"a zip without {_PICKLE_NAME}; expected one of torch.save")
        if (size_bytes := sum(info.file_size for info in archive.infolist())) > MAX_BYTES:
            raise RefusedInput("unsupported", f"{size_bytes} bytes unpacked; expected at most {MAX_BYTES}")
        return {name.removeprefix(root): archive.read(name) for name in archive.namelist()}
    except _DAMAGED as error:
        raise RefusedInput("truncated", f"expected a whole zip of torch.save: {error}") from error
    except (ValueError, KeyError, RuntimeError) as error:  # a compression method or a password unknown to zipfile
        raise RefusedInput("unsupported", f"expected a plain zip of torch.save: {error}") from error
