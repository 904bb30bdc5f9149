"""Reads the graphs that MindSpore dumps after inferring all types and shapes (`…_validate_….ir`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# The values of constant tensors may extend over several lines.
NODE = re.compile(r"^  %\d+\(.*?\) = (?P<function>[^\n(]*)\((?s:.*?)\n      : (?P<types>\(.*\)) -> ", re.MULTILINE)
SUBGRAPHS = re.compile(r"^# Total subgraphs: (\d+)$", re.MULTILINE)
TENSOR = re.compile(r"<(?:Ref\[)?Tensor\[(\w+)\]")


@dataclass(frozen=True, slots=True)
class Node:
    """A primitive with the number type of each input that is a tensor.

    None stands for other inputs: scalars and tuples, which are constants or are converted, and inputs without a value.
    """

    primitive: str
    tensor_types: tuple[str | None, ...]


def read_nodes(text: str) -> list[Node]:
    """Return the nodes of a dumped graph.

    Raises ValueError if the text has nodes of another form, or subgraphs, whose calls would have to be counted.
    """
    found = SUBGRAPHS.search(text)
    if not found or found[1] != "1":
        raise ValueError(f"expected a graph without subgraphs, got {found and found[0]}")
    nodes = [_node(match["function"], match["types"]) for match in NODE.finditer(text)]
    written = sum(1 for _ in re.finditer(r"^  %\d+\(", text, re.MULTILINE))
    if not nodes or len(nodes) != written:
        raise ValueError(f"expected {written} nodes, read {len(nodes)}")
    return nodes


def _node(function: str, types: str) -> Node:
    primitive = function.removeprefix("PrimFunc_")
    if not primitive.isidentifier():
        raise ValueError(f"expected the name of a primitive, got {function}")
    return Node(primitive, tuple(map(_tensor_type, _split(types[1:-1]))))


def _split(types: str) -> Iterator[str]:
    """Yield the parts of `<…>, <…>`; brackets nest."""
    depth = start = 0
    for index, character in enumerate(types):
        depth += character in "<([{"
        depth -= character in ">)]}"
        if character == "," and depth == 0:
            yield types[start:index].strip()
            start = index + 1
    if types.strip():
        yield types[start:].strip()


def _tensor_type(described: str) -> str | None:
    """Return the number type of `<Tensor[Float32], (4)>` or `<Ref[Tensor[Float32]], (4), …>`."""
    found = TENSOR.match(described)
    return found[1].lower() if found else None
