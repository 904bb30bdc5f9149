"""Messages and documents name only flags that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from pipelines.cli import main

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "vq_stage", "lm_stage", "pipelines")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")

# Flags of other programs that our messages, documents and examples name.
FOREIGN_FLAGS = {
    "--local-dir": "hf download",
    "--array": "sbatch",
    "--job-name": "sbatch",
    "--nodes": "sbatch",
    "--ntasks": "sbatch",
    "--requeue": "sbatch",
    "--signal": "sbatch",
    "--worker_num": "msrun",
    "--local_worker_num": "msrun",
    "--join": "msrun",
    "--run_mode": "run_mindformer.py",
    "--mindspore_ckpt_dir": "unified_safetensors.py",
    "--src_strategy_dirs": "unified_safetensors.py",
    "--output_dir": "unified_safetensors.py",
    "--file_suffix": "unified_safetensors.py",
    "--has_redundancy": "unified_safetensors.py",
    "--stand-in": "tests.faults.kill_many",
    "--times": "tests.faults.kill_many",
    "--work": "tests.faults.kill_many",
}


def options_of(command: click.Command) -> Iterator[str]:
    """Yield the names of all options of a command and of the commands below it."""
    yield "--help"
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from options_of(child)


def string_literals(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def named_flags() -> Iterator[tuple[str, str]]:
    """Yield (where, flag) for every flag named by a string literal of the product, a document or an example."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for line, text in string_literals(path.read_text(encoding="utf-8")):
            yield from ((f"{path.relative_to(ROOT)}:{line}", flag) for flag in FLAG.findall(text))
    for path in documents():
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield from ((f"{path.relative_to(ROOT)}:{line}", flag) for flag in FLAG.findall(text))


def documents() -> Iterator[Path]:
    yield from (path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md")  # which names flags of the past
    yield from (ROOT / "docs").rglob("*.md")
    for package in PACKAGES:
        yield from (path for path in (ROOT / package).rglob("*") if path.suffix in (".md", ".sh", ".yaml"))


def test_every_flag_that_is_named_exists() -> None:
    known, named = {*options_of(main), *FOREIGN_FLAGS}, list(named_flags())
    assert len(named) > 100, "hardly any flag was found: is the search broken?"
    assert [f"{where}: {flag}" for where, flag in named if flag not in known] == []


def test_every_foreign_flag_is_named_somewhere_and_is_not_ours() -> None:
    named = {flag for _, flag in named_flags()}
    assert named >= set(FOREIGN_FLAGS)
    assert not set(options_of(main)) & set(FOREIGN_FLAGS)
