"""Reads the graphs that MindSpore dumps after inferring all types and shapes (`…_validate_….ir`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

# The values of constant tensors may extend over several lines.
NODE = re.compile(
    r"^  %\d+\(.*?\) = (?P<function>[^\n(]*)\((?P<arguments>(?s:.*?))\n      : (?P<types>\(.*\)) -> ", re.MULTILINE
)
CONSTANT = re.compile(r"\bTensor\(shape=\[([\d, ]*)\], dtype=(\w+)")
SUBGRAPHS = re.compile(r"^# Total subgraphs: (\d+)$", re.MULTILINE)
TENSOR = re.compile(r"<(?:Ref\[)?Tensor\[(\w+)\]")


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that is stored in a graph, with its number type in lower case."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        bits = re.search(r"\d+$", self.dtype)
        return prod(self.shape) * (int(bits[0]) // 8 if bits else 1)


@dataclass(frozen=True, slots=True)
class Node:
    """A primitive with the number type of each input that is a tensor, and those of its inputs that are constants.

    None stands for other inputs: scalars and tuples, which are constants or are converted, and inputs without a value.
    """

    primitive: str
    tensor_types: tuple[str | None, ...]
    constants: tuple[Constant, ...] = ()


def read_nodes(text: str) -> list[Node]:
    """Return the nodes of a dumped graph.

    Raises ValueError if the text has nodes of another form, or subgraphs, whose calls would have to be counted.
    """
    found = SUBGRAPHS.search(text)
    if not found or found[1] != "1":
        raise ValueError(f"expected a graph without subgraphs, got {found and found[0]}")
    nodes = [_node(match["function"], match["arguments"], match["types"]) for match in NODE.finditer(text)]
    written = sum(1 for _ in re.finditer(r"^  %\d+\(", text, re.MULTILINE))
    if not nodes or len(nodes) != written:
        raise ValueError(f"expected {written} nodes, read {len(nodes)}")
    return nodes


def _node(function: str, arguments: str, types: str) -> Node:
    primitive = function.removeprefix("PrimFunc_")
    if not primitive.isidentifier():
        raise ValueError(f"expected the name of a primitive, got {function}")
    constants = (
        Constant(dtype.lower(), tuple(map(int, filter(None, shape.split(", ")))))
        for shape, dtype in CONSTANT.findall(arguments)
    )
    return Node(primitive, tuple(map(_tensor_type, _split(types[1:-1]))), tuple(constants))


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
