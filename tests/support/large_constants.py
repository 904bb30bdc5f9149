"""Large tensors that graphs may hold as constants, each with the graphs that may and the reason.

MindSpore computes what depends on shapes only, such as zeros of a gradient's shape, while it compiles: the result is a
constant that takes memory as long as the graph exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.compile_graphs import Compilation
from tests.support.graph_ir import Constant
from tests.support.operator_table import Usage

SMALL_BYTES = 16 << 10  # in the models of the audit, where a slice of a matrix's gradient takes 16 KiB or more
PUBLISHED_BYTES = 16 << 20  # in the published models


@dataclass(frozen=True, slots=True)
class AllowedConstant:
    """A shape in the models of the audit, the beginnings of the names of graphs that may hold it, and why."""

    shape: tuple[int, ...]
    graphs: tuple[str, ...]
    reason: str


CONSTANTS = (
    AllowedConstant((256, 64), ("training step",), "cosines and sines of the positions of a row"),
    AllowedConstant((128, 64), ("prefill", "decode step"), "cosines and sines of the positions of the KV cache"),
    AllowedConstant((2048, 2048), ("training step",), "the mask of fused attention, whatever the sizes; one tensor"),
    AllowedConstant((1, 1, 128, 128), ("training step",), "causal masks of plain attention, one for all layers"),
    AllowedConstant((1, 1, 128, 256), ("training step",), "causal masks of plain attention, one for all layers"),
)


def large_constants(usages: Mapping[Compilation, Usage], least_bytes: int) -> set[tuple[str, Constant]]:
    """Return the constants of some size, each with the name of its graph."""
    return {
        (compilation.graph, constant)
        for compilation, usage in usages.items()
        for constant in usage.constants
        if constant.size_bytes >= least_bytes
    }


def unlisted_constants(found: set[tuple[str, Constant]]) -> set[tuple[str, Constant]]:
    """Return those that their graph may not hold."""
    return {one for one in found if not _entries(*one)}


def unused_entries(found: set[tuple[str, Constant]]) -> set[AllowedConstant]:
    """Return the entries that no graph needs."""
    return set(CONSTANTS) - {entry for one in found for entry in _entries(*one)}


def _entries(graph: str, constant: Constant) -> list[AllowedConstant]:
    return [entry for entry in CONSTANTS if entry.shape == constant.shape and graph.startswith(entry.graphs)]
