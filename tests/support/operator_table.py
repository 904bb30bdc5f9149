"""What MindSpore's Ascend plug-in has kernels for, and a check of compiled graphs against it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.graph_ir import Constant, Node

VERSION = "2.8.0"
TABLE = Path(__file__).parents[1] / "ascend" / f"operators_{VERSION}.json"

# Nodes that order or group others.
STRUCTURE = {"Load", "Depend", "UpdateState", "MakeTuple", "TupleGetItem", "Return"}
# Nodes that give the same memory another shape.
RESHAPES = {"Reshape", "ExpandDims", "Squeeze", "Flatten"}
COLLECTIVES = {"AllReduce", "AllGather", "ReduceScatter", "Broadcast"}
REWRITTEN = {
    "AdamWeightDecay": "a pass of the Ascend backend (AdamWeightDecayUnifyMindIR) replaces it with aclnn operators",
}
REMOVED = {
    "TensorToTuple": "by its name, the pass RemoveFATensorToTupleOps of the backend removes it in front of attention",
}
NO_LAUNCH = {*STRUCTURE, *RESHAPES, *REMOVED}
# The plug-in does not report types for aclnn kernels. MindSpore documents these, which are narrower than what type
# inference accepts.
ACLNN_TYPES = {
    "FlashAttentionScore": ("float16", "bfloat16"),
    "FlashAttentionScoreGrad": ("float16", "bfloat16"),
    "IncreFlashAttention": ("float16", "bfloat16"),
}


@cache
def operator_table() -> dict[str, dict[str, object]]:
    """Return by primitive: `aclnn`, true if it has such a kernel; `acl`, the types of each input of the older kind.

    An empty list under `acl` means that the plug-in reports a kernel without its types.
    """
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    assert content["mindspore"] == VERSION
    return content["primitives"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The launches of a graph by primitive, and by the kind of their kernel; its constants; and what has no kernel."""

    launches: Counter[str]
    aclnn: int
    acl: Counter[str]
    constants: Counter[Constant]
    problems: tuple[str, ...]


def usage_of(nodes: Iterable[Node]) -> Usage:
    """Count the launches and the constants of a graph.

    A launch is a node that becomes a kernel on the device: not one that orders or groups others, not a reshape, which
    moves no data, and not one that the backend removes.
    """
    nodes = list(nodes)
    launched = [node for node in nodes if node.primitive not in NO_LAUNCH]
    launches = Counter(node.primitive for node in launched)
    kinds = {name: kernel_kind(name) for name in launches}
    acl = Counter({name: count for name, count in launches.items() if kinds[name] == "acl"})
    aclnn = sum(count for name, count in launches.items() if kinds[name] == "aclnn")
    problems = {problem for node in launched for problem in problems_of(node)}
    constants = Counter(constant for node in nodes for constant in node.constants)
    return Usage(launches, aclnn, acl, constants, tuple(sorted(problems)))


def kernel_kind(primitive: str) -> str | None:
    """Return aclnn, acl, hccl, rewritten, or None for a primitive without a kernel."""
    if primitive in REWRITTEN:
        return "rewritten"
    entry = operator_table().get(primitive)
    if entry is None:
        return None
    if primitive in COLLECTIVES:
        return "hccl"
    return "aclnn" if entry.get("aclnn") else "acl"


def problems_of(node: Node) -> list[str]:
    """Return why a node has no kernel on Ascend; nothing if it has one."""
    kind = kernel_kind(node.primitive)
    if kind is None:
        return [f"{node.primitive}: no kernel"]
    if kind == "aclnn":
        expected = ACLNN_TYPES.get(node.primitive)
        first = node.tensor_types[0]
        return [f"{node.primitive}: input 0 is {first}"] if expected and first not in expected else []
    if kind == "rewritten":
        return []
    allowed = [str(types).split() for types in operator_table()[node.primitive]["acl"]]
    return [
        f"{node.primitive}: input {index} is {found}, expected {' or '.join(types)}"
        for index, (found, types) in enumerate(zip(node.tensor_types, allowed))
        if found and types and found not in types
    ]
