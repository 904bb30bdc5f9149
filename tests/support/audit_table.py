"""The audit of all graphs as the tables of docs/ascend.md: `python -m tests.support.audit_table` updates them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pipelines.dry_run.graphs import published_sizes
from tests.support.command import REPOSITORY
from tests.support.compile_graphs import Compilation, compile_graphs
from tests.support.operator_table import Usage, usage_of

PAGE = REPOSITORY / "docs" / "ascend.md"
BEGIN, END = "<!-- audit: {} -->", "<!-- end of audit -->"
UPDATE_COMMAND = "python -m tests.support.audit_table"
PER_LAYER = ("decode step", "training step")
PUBLISHED_LAYERS = published_sizes().decoder.num_hidden_layers


def small_compilations() -> list[Compilation]:
    """Return every graph in every type with two layers, and what the launches of one layer are computed from."""
    from pipelines.dry_run.graph_table import all_graphs

    graphs = all_graphs().values()
    whole = [Compilation(graph.name, dtype) for graph in graphs for dtype in graph.dtypes]
    layers = [
        Compilation(name, "bfloat16", kernels, layers)
        for name in PER_LAYER
        for kernels in ("cpu", "ascend")
        for layers in (1, 2)
    ]
    return [*whole, *(one for one in layers if one not in whole)]


def audit(compilations: Sequence[Compilation], folder: Path) -> dict[Compilation, Usage]:
    """Compile graphs and count their launches."""
    return {one: usage_of(nodes) for one, nodes in compile_graphs(compilations, folder).items()}


def tables(usages: Mapping[Compilation, Usage]) -> dict[str, str]:
    """Return the tables of docs/ascend.md by name."""
    return {"graphs": "\n".join(_graphs(usages)), "launches": "\n".join(_launches(usages))}


def _graphs(usages: Mapping[Compilation, Usage]) -> Iterator[str]:
    yield "| Graph | Types | Primitives | aclnn | acl | Launches |"
    yield "|---|---|---|---|---|---|"
    rows = [
        (one.graph, (len(usage.launches), usage.aclnn, usage.acl.total(), usage.launches.total()), one.dtype)
        for one, usage in usages.items()
        if one == Compilation(one.graph, one.dtype)
    ]
    for (graph, counts), group in groupby(rows, key=lambda row: row[:2]):
        dtypes = ", ".join(dtype for *_, dtype in group)
        yield f"| {graph} | {dtypes} | {' | '.join(map(str, counts))} |"


def _launches(usages: Mapping[Compilation, Usage]) -> Iterator[str]:
    yield f"| Graph in bfloat16 | Kernels | One layer | The rest | {PUBLISHED_LAYERS} layers |"
    yield "|---|---|---|---|---|"
    for name in PER_LAYER:
        for kernels, label in (("cpu", "`--kernels plain`"), ("ascend", "Ascend's")):
            one, two = (usages[Compilation(name, "bfloat16", kernels, n)].launches.total() for n in (1, 2))
            layer, rest = two - one, 2 * one - two
            yield f"| {name} | {label} | {layer} | {rest} | {rest + PUBLISHED_LAYERS * layer} |"


def acl_by_graph(usages: Mapping[Compilation, Usage]) -> dict[str, Counter[str]]:
    """Return the acl operators of each graph with the kernels of Ascend, over all types."""
    found: dict[str, Counter[str]] = {}
    for one, usage in usages.items():
        if one.kernels == "ascend":
            found[one.graph] = found.get(one.graph, Counter()) | usage.acl
    return found


def table_of(page: str, name: str) -> str:
    """Return a table of a page. Raises ValueError if it has no place for it."""
    begin = page.index(BEGIN.format(name)) + len(BEGIN.format(name))
    return page[begin : page.index(END, begin)].strip("\n")


def counts(graphs: str) -> dict[tuple[str, str], str]:
    """Return the numbers of every graph and type of the table of graphs."""
    rows = [line.strip("|").split("|", 2) for line in graphs.splitlines()[2:]]
    return {(graph.strip(), dtype): numbers for graph, dtypes, numbers in rows for dtype in dtypes.strip().split(", ")}


def with_tables(page: str, usages: Mapping[Compilation, Usage]) -> str:
    """Return a page with its tables replaced. Raises ValueError if it has no place for one of them."""
    for name, table in tables(usages).items():
        begin = page.index(BEGIN.format(name)) + len(BEGIN.format(name))
        page = f"{page[:begin]}\n{table}\n{page[page.index(END, begin) :]}"
    return page


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(
            with_tables(PAGE.read_text(encoding="utf-8"), audit(small_compilations(), Path(folder))), encoding="utf-8"
        )
