"""Unpickles texts, containers and integer arrays, and nothing else.

A pickle is a program that may name any class or function. Here only a few opcodes are allowed, and the few names that
arrays and tensors need are replaced by the stand-ins below, so that nothing from the file is ever run. Source: the
pickle protocol as `pickletools` documents it; PyTorch serialization notes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shared.errors import RefusedInput

_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST",
    "APPEND", "APPENDS",
}  # fmt: skip
_INTEGERS = frozenset(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
_STORAGES = {"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2"}
_MALFORMED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RuntimeError,
    MemoryError,
)  # fmt: skip


def load_pickle(pickled: bytes, members: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the dictionary in a pickle, with tensors and arrays as numpy arrays of integers.

    `members` are the other files of the archive, which hold the bytes of tensors. Raises RefusedInput, with the reason
    `unsafe_pickle` or, if the value is not a dictionary, `unsupported`.
    """
    try:
        _check_opcodes(pickled)
        value = _Unpickler(pickled, members).load()
    except _MALFORMED as error:
        raise RefusedInput("unsafe_pickle", f"expected texts and arrays of integers: {error}") from error
    if not isinstance(value, dict):
        raise RefusedInput("unsupported", f"expected a dictionary, got {type(value).__name__}")
    return {name: item.array if isinstance(item, _Array) else item for name, item in value.items()}


def _check_opcodes(pickled: bytes) -> None:
    """Raise ValueError for an opcode that constructs objects, or a memo size that would exhaust the memory."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in _OPCODES:
            raise ValueError(f"opcode {opcode.name}")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(pickled):
            raise ValueError(f"memo of {argument}")


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds only stand-ins."""

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
            raise ValueError(f"expected a storage of type {', '.join(_STORAGES)}")
        return _Array(np.frombuffer(self._members[f"data/{key}"], self._order + _STORAGES[storage.name]))


class _Named:
    """A stand-in for something that a pickle names; calling it calls `build`, and it does nothing else."""

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


class _IntegerType:
    """A stand-in for a numpy dtype."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if code not in _INTEGERS:
            raise ValueError(f"an array of {code!r}")
        self.code = code
        self.dtype = np.dtype("<" + code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = np.dtype(f"{'>' if state[1] == '>' else '<'}{self.code}")


class _Array:
    """A stand-in for an array, or for the storage of a tensor."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _IntegerType) or not isinstance(data, bytes):
            raise ValueError("expected an array of integers")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array(np.zeros(0, np.int64))


def _rebuild_tensor(storage: _Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Array:
    values = storage.array
    if math.prod(size) > values.size:
        raise ValueError(f"a tensor of {size} over {values.size} stored values")
    strides = tuple(step * values.itemsize for step in stride)
    return _Array(np.ndarray(size, values.dtype, values, offset * values.itemsize, strides))


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Return bytes, which protocol 2 pickles as a call of `codecs.encode`."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


_BUILDERS: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _IntegerType,
    ("_codecs", "encode"): _encode_latin1,
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}
