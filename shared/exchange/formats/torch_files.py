"""Files of `torch.save`, written and read without torch, and without running anything that a file asks for.

A file is a zip of a pickle and of the bytes of tensors. The pickle may use few opcodes and name few things; what it
names is rebuilt here as plain arrays. Source: PyTorch serialization notes; the pickle protocol by `pickletools`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shared.errors import RefusedInput

MAX_BYTES = 256 << 20
_ZIP_MAGIC = b"PK\x03\x04"
_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST",
    "APPEND", "APPENDS",
}  # fmt: skip
_INTEGERS = frozenset(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
_STORAGES = {"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2"}
_DAMAGED = (zipfile.BadZipFile, EOFError, OSError, struct.error, zlib.error)
_MALFORMED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RuntimeError,
    MemoryError,
)  # fmt: skip


def dump_torch(value: Mapping[str, Any]) -> bytes:
    """A file that `torch.load` reads: strings and arrays by name. Equal values give equal bytes."""
    fresh = {name: item.encode().decode() if isinstance(item, str) else item for name, item in value.items()}
    entries = {  # strings are copied above, because pickle writes one object that stands in two places only once
        "data.pkl": pickle.dumps(fresh, protocol=2),
        "byteorder": b"little",
        "version": b"3\n",
    }
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(f"archive/{name}")  # of 1980-01-01
            info.create_system = 3
            archive.writestr(info, content)
    return sink.getvalue()


def load_torch(content: bytes) -> dict[str, Any]:
    """The dictionary in a file, tensors and arrays as numpy arrays of integers.

    Raises RefusedInput: `truncated`, `unsupported` (written before torch 1.6, or no such file at all), or
    `unsafe_pickle` (asks for anything but integers in arrays, texts and containers).
    """
    if not content.startswith(_ZIP_MAGIC):
        reason = "truncated" if len(content) < len(_ZIP_MAGIC) else "unsupported"
        raise RefusedInput(reason, "expected a zip of torch.save; load and save older files with torch 1.6 or later")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        root = next((n[: -len("data.pkl")] for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if root is None:
            raise RefusedInput("unsupported", "a zip without data.pkl: not of torch.save")
        if (size_bytes := sum(info.file_size for info in archive.infolist())) > MAX_BYTES:
            raise RefusedInput("unsupported", f"{size_bytes} bytes unpacked; expected at most {MAX_BYTES}")
        members = {name.removeprefix(root): archive.read(name) for name in archive.namelist()}
    except _DAMAGED as error:
        raise RefusedInput("truncated", f"expected a whole zip of torch.save: {error}") from error
    except (ValueError, KeyError, RuntimeError) as error:  # a method or a password that zipfile does not know
        raise RefusedInput("unsupported", f"expected a plain zip of torch.save: {error}") from error
    return _load_pickle(members)


def _load_pickle(members: Mapping[str, bytes]) -> dict[str, Any]:
    pickled = members["data.pkl"]
    try:
        _check_opcodes(pickled)
        value = _Unpickler(pickled, members).load()
    except _MALFORMED as error:
        raise RefusedInput("unsafe_pickle", f"expected texts and arrays of integers: {error}") from error
    if not isinstance(value, dict):
        raise RefusedInput("unsupported", f"expected a dictionary, got {type(value).__name__}")
    return {name: item.array if isinstance(item, _Array) else item for name, item in value.items()}


def _check_opcodes(pickled: bytes) -> None:
    """Before anything is loaded: no opcode that makes objects of a class, no memo of a size to exhaust memory."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in _OPCODES:
            raise ValueError(f"opcode {opcode.name}")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(pickled):
            raise ValueError(f"memo of {argument}")


class _Unpickler(pickle.Unpickler):
    """Finds stand-ins only."""

    def __init__(self, pickled: bytes, members: Mapping[str, bytes]):
        super().__init__(io.BytesIO(pickled))
        self._members = members
        self._order = ">" if members.get("byteorder") == b"big" else "<"

    def find_class(self, module: str, name: str) -> _Named:
        if module == "torch" and name in _STORAGES:
            return _Named(name)
        if (module, name) not in _BUILDERS:
            raise RefusedInput("unsafe_pickle", f"asks for {module}.{name}")
        return _Named(name, _BUILDERS[module, name])

    def persistent_load(self, pid: Any) -> _Array:
        kind, storage, key, _, _ = pid
        if kind != "storage" or not isinstance(storage, _Named) or storage.name not in _STORAGES:
            raise ValueError(f"a storage of other than {', '.join(_STORAGES)}")
        return _Array(np.frombuffer(self._members[f"data/{key}"], self._order + _STORAGES[storage.name]))


class _Named:
    """Stands for something that a pickle names; does what `build` does when called, nothing else."""

    __slots__ = ("_build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None = None):
        self.name = name
        self._build = build

    def __call__(self, *values: Any) -> Any:
        if self._build is None:
            raise TypeError(f"{self.name} cannot be called")
        return self._build(*values)

    def __setstate__(self, state: Any) -> None:
        raise TypeError(f"{self.name} cannot be changed")


class _Type:
    """Stands for a numpy dtype of integers."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if code not in _INTEGERS:
            raise ValueError(f"an array of {code!r}")
        self.code = code
        self.dtype = np.dtype("<" + code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = np.dtype(f"{'>' if state[1] == '>' else '<'}{self.code}")


class _Array:
    """Stands for an array, or for the storage of a tensor."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise ValueError("an array of other than integers")
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if is_fortran else "C")


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array(np.zeros(0, np.int64))


def _rebuild_tensor(storage: _Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Array:
    values = storage.array
    if math.prod(size) > values.size:
        raise ValueError(f"a tensor of {size} over {values.size} stored values")
    strides = tuple(step * values.itemsize for step in stride)
    return _Array(np.ndarray(size, values.dtype, values, offset * values.itemsize, strides))


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


_BUILDERS: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}
