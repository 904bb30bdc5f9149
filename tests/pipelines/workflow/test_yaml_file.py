"""YAML files: every value is a string, and a hostile file is refused with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.workflow.yaml_file import MAX_BYTES, load_yaml
from shared.errors import UsageError


def load(text: str, folder: Path) -> object:
    (folder / "file.yaml").write_text(text)
    return load_yaml(folder / "file.yaml")


def test_values_are_strings(tmp_path: Path) -> None:
    text = "a: 16:9\nb: yes\nc: [1, 0x10, null, 2026-01-01]\nd: {e: 1e3}\n"
    expected = {"a": "16:9", "b": "yes", "c": ["1", "0x10", "null", "2026-01-01"], "d": {"e": "1e3"}}
    assert load(text, tmp_path) == expected
    assert load("", tmp_path) is None


def test_merge_keys_and_aliases(tmp_path: Path) -> None:
    text = "base: &base {x: 1, y: 2}\none: {<<: *base, y: 3}\ntwo: [*base]\n"
    base = {"x": "1", "y": "2"}
    assert load(text, tmp_path) == {"base": base, "one": {"x": "1", "y": "3"}, "two": [base]}


DOUBLED = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 33))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 33))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("steps: [", "line 1"),
        ("a: 1\na: 2", "duplicate key 'a'"),
        (DOUBLED, "more than 10000 values"),
        (MERGED, "more than 10000 values"),
        ("a: &a [*a]", "more than 10000 values"),
        ("a: &a {b: *a}", "more than 10000 values"),
        ("a: " + "[" * 5_000, "nested more than 50 levels deep"),
        ("a: " + "{b: " * 5_000, "nested more than 50 levels deep"),
        ("\n".join(f"{' ' * n}a:" for n in range(1_000)), "nested more than 50 levels deep"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ('a: !!int ""', "could not determine a constructor"),
        ("a: !!bool x", "could not determine a constructor"),
        ('a: "\\UFFFFFFFF"', "not a YAML file"),
        ("a: {<<: text}", "expected a mapping"),
        ("? [a, b]\n: c", "unhashable key"),
        ("a: b\n--- \nc: d", "another document"),
        ("\0", "special characters"),
        ('a: "\\0"', "null character"),
        ('a: "\\uD800"', "half of a surrogate pair"),
        ("steps: {a: {run: decode, dataset: ${codes}}}", r'write references in quotes: "\$\{name\}"'),
        ("steps:\n  a: {run: sft, datasets: [${codes}]}", r'write references in quotes: "\$\{name\}"'),
    ],
)
def test_files_that_are_refused(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        load(text, tmp_path)
    assert len(str(caught.value)) < 1_000


def test_what_is_not_a_small_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="regular file"):
        load_yaml(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="larger than"):
        load("a" * (MAX_BYTES + 1), tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        load_yaml(tmp_path / "missing.yaml")
