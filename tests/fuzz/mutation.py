"""Mutations: of bytes for any file, and of values for JSON and YAML, which byte mutations would only break."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from shared.storage.checked_json import dump_checked_json

INTEGERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31)
INTEGERS += ((1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXT_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml")
DEEP = 100_000
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", [], {}, [[]], {"": None}, 0, -1, 1, 2, 10**9, 10**19, 10**400, -(10**9), 0.5, 1e308),
    *(float("nan"), float("inf"), "\0", "../../etc/passwd", "/dev/zero", "é\ud800", "0" * 5000, "x" * 200_000),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
RAW_VALUES = (
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b"9" * 10_000,
    b"1e999999999",
    b"-",
    b"NaN",
    b'"\\ud800"',
    b'"' + b"\\u0000" * 9 + b'"',
)
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 33))


def mutate(data: bytes, suffix: str, others: Sequence[bytes], random_: random.Random) -> bytes:
    """Return a changed copy; `others` are contents to take pieces from."""
    suffix = suffix.lower()
    if random_.random() < 0.7:
        if suffix in TEXT_SUFFIXES and (changed := _mutate_values(data, suffix, random_)) is not None:
            return _with_valid_checksum(changed) if random_.random() < 0.5 else changed
        if suffix == ".safetensors":
            header, body = (
                data[8 : 8 + int.from_bytes(data[:8], "little")],
                data[8 + int.from_bytes(data[:8], "little") :],
            )
            if (changed := _mutate_values(header, ".json", random_)) is not None:
                return len(changed).to_bytes(8, "little") + changed + body
    for _ in range(1 + int(random_.expovariate(0.7))):
        data = random_.choice(BYTE_MUTATIONS)(data, others, random_)
    return data


def _position(data: bytes, random_: random.Random) -> int:
    """Return a position, often near one of the ends, where headers and footers are."""
    if not data:
        return 0
    kind = random_.random()
    if kind < 0.35:
        return min(len(data) - 1, int(random_.expovariate(1 / 60)))
    if kind < 0.5:
        return max(0, len(data) - 1 - int(random_.expovariate(1 / 60)))
    return random_.randrange(len(data))


def _flip(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(1 + int(random_.expovariate(1))):
        changed[_position(changed, random_)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    size, at = random_.choice((1, 2, 3, 4, 8)), _position(data, random_)
    value = random_.choice((random_.choice(INTEGERS), random_.getrandbits(8 * size))) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, random_.choice(("little", "big"))) + data[at + size :]


def _cut(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    return data[: _position(data, random_)]


def _delete(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    at = _position(data, random_)
    return data[:at] + data[at + random_.choice((1, 2, 4, 16, 512, len(data) // 3 + 1)) :]


def _repeat(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    at = _position(data, random_)
    piece = data[at : at + random_.choice((1, 4, 64, 512, 4096))]
    return data[:at] + piece * random_.choice((2, 3, 50, 1000)) + data[at + len(piece) :]


def _insert(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    at, other = _position(data, random_), random_.choice(others)
    start = _position(other, random_)
    return data[:at] + other[start : start + random_.choice((4, 64, 1024, len(other)))] + data[at:]


def _splice(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    other = random_.choice(others)
    return data[: _position(data, random_)] + other[_position(other, random_) :]


def _zero(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    at, size = _position(data, random_), random_.choice((4, 64, 512, 4096))
    return data[:at] + random_.choice((b"\0", b"\xff")) * min(size, len(data) - at) + data[at + size :]


BYTE_MUTATIONS = (
    _flip,
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _overwrite,
    _cut,
    _delete,
    _repeat,
    _insert,
    _splice,
    _zero,
)


def _mutate_values(data: bytes, suffix: str, random_: random.Random) -> bytes | None:
    """Return the document with some values replaced, or None if it cannot be parsed."""
    lines = data.split(b"\n") if suffix == ".jsonl" else [data]
    number = random_.randrange(len(lines))
    try:
        value = yaml.safe_load(lines[number]) if suffix in (".yaml", ".yml") else json.loads(lines[number])
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    if suffix in (".yaml", ".yml") and random_.random() < 0.1:
        return ALIASES.encode() + data
    marks: list[bytes] = []
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        value = _replaced(value, random_, marks)
    text = json.dumps(value).encode()  # JSON is YAML
    for index, raw in enumerate(marks):
        text = text.replace(b'"@%d@"' % index, raw)
    lines[number] = text
    return b"\n".join(lines)


def _with_valid_checksum(data: bytes) -> bytes:
    """Return a record or manifest with the checksum of its new values, so that these are checked too."""
    try:
        value = json.loads(data)
        if isinstance(value, dict) and value.pop("check", None) is not None:
            return dump_checked_json(value)
    except (ValueError, RecursionError):
        pass
    return data


def _replaced(value: Any, random_: random.Random, marks: list[bytes]) -> Any:
    """Return a copy in which one value, at any depth, is replaced, removed, renamed or repeated."""
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(list(value))
        change = random_.random()
        if change < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        if change < 0.15:
            return {**value, _new_value(random_, []).__repr__()[:50]: value[key]}
        return {**value, key: _replaced(value[key], random_, marks)}
    if isinstance(value, list) and value and random_.random() < 0.8:
        index = random_.randrange(len(value))
        if random_.random() < 0.1:
            return value * random_.choice((0, 2, 1000 if len(value) < 100 else 3))  # thousands of entries, not millions
        return [*value[:index], _replaced(value[index], random_, marks), *value[index + 1 :]]
    return _new_value(random_, marks)


def _new_value(random_: random.Random, marks: list[bytes]) -> Any:
    choice = random_.random()
    if choice < 0.1:
        marks.append(random_.choice(RAW_VALUES))
        return f"@{len(marks) - 1}@"
    return random_.choice(VALUES) if choice < 0.8 else _drawn(JSON, random_.getrandbits(32))


def _drawn(strategy: st.SearchStrategy[Any], number: int) -> Any:
    """Return what hypothesis draws for a seed."""
    values: list[Any] = []

    @seed(number)
    @settings(max_examples=5, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=HealthCheck)
    @given(strategy)
    def draw(value: Any) -> None:
        values.append(value)

    draw()
    return values[-1]
