"""The import graph has no cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "vq_stage", "lm_stage", "pipelines")


def modules() -> dict[str, Path]:
    """Every module of the four packages; a package stands for its `__init__.py`."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported_names(path: Path) -> Iterator[str]:
    """Absolute names that a module imports, at any level, but not for type checking only."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def import_graph() -> dict[str, set[str]]:
    """For each module, the modules of ours that it imports."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        candidates = {one if one in known else one.rpartition(".")[0] for one in imported_names(path)}
        graph[name] = candidates & set(known)
    return graph


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_folders_of_a_package_do_not_import_each_other_in_a_cycle() -> None:
    """A module directly in a package, such as `vq_stage.tokenizer`, counts as a folder of its own."""
    known = modules()

    def folder(name: str) -> str:
        parent = name if known[name].name == "__init__.py" else name.rpartition(".")[0]
        return name if parent in PACKAGES else ".".join(parent.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name, imported in import_graph().items():
        graph.setdefault(folder(name), set()).update(folder(one) for one in imported if folder(one) != folder(name))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
