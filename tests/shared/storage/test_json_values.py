"""Values of JSON files, one at a time."""

from __future__ import annotations

import io
import json

import pytest

from shared.errors import UsageError
from shared.storage import json_values
from shared.storage.json_values import JsonValue, array_elements, limited_lines, line_values


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_arrays_are_read_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "FIRST_BLOCK", block)
    values = [{"image": "é.png", "n": [1, {"x": "]"}]}, 12345, -1.5e10, "a,b", None, [], {}]
    content = json.dumps(values, indent=2, ensure_ascii=False).encode()
    found = list(array_elements(io.BytesIO(content), "list.json"))
    assert [one.value for one in found] == values
    assert [one.where for one in found][:2] == ["entry 1, line 2", "entry 2, line 11"]
    assert list(array_elements(io.BytesIO(b" [ ] "), "list.json")) == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{}", "line 1: expected `\\[`"),
        (b"[1\n", "the array has no end|not JSON"),
        (b"[\n1 2]", "line 2: expected `,`"),
    ],
)
def test_what_is_no_array_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        list(array_elements(io.BytesIO(content), "list.json"))


def test_a_bad_line_costs_only_itself() -> None:
    found = list(line_values(io.BytesIO(b'\xef\xbb\xbf{"a": 1}\n\n{nonsense\n"b"\n')))
    assert [(one.number, one.value, bool(one.error)) for one in found] == [
        (1, {"a": 1}, False),
        (3, None, True),
        (4, "b", False),
    ]


def test_a_line_that_is_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_VALUE_BYTES", 10)
    assert list(limited_lines(io.BytesIO(b"short\n" + b"x" * 35 + b"\nend"))) == [b"short\n", None, b"end"]
    assert list(line_values(io.BytesIO(b"x" * 35))) == [JsonValue(1, "line 1", error="longer than 10 bytes")]
