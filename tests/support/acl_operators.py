"""Operators of the older kind (acl) that graphs for Ascend may use, each with the graphs that may and the reason.

Every other one fails the audit: most have a counterpart of the newer kind (aclnn), whose launch takes less time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowed:
    """An operator of the older kind, the beginnings of the names of graphs that may use it, and why."""

    operator: str
    graphs: tuple[str, ...]
    reason: str


ACL_OPERATORS = (
    Allowed("AddN", ("training step", "train-vq"), "sums of gradients, which differentiation inserts; no aclnn kernel"),
    Allowed("AssignAdd", ("training step",), "into the accumulated gradient, once a micro-batch and parameter"),
    Allowed("AssignAdd", ("train-vq",), "the number of the step, once a step"),
    Allowed("Assign", ("optimizer step", "skipped step"), "to a gradient or a parameter, once a step and parameter"),
    Allowed("Assign", ("train-vq",), "the powers of Adam's constants, once a step"),
    Allowed("Adam", ("train-vq",), "once a step and parameter; the aclnn kernel is AdamW's"),
    Allowed("Gather", ("train-vq",), "the learning rate of the step"),
    Allowed("StridedSlice", ("logits", "prefill", "training step", "train-vq", "decode"), "a few, none in a layer"),
    Allowed("Slice", ("training step",), "plain attention, in float32 only: the fused one does not take it"),
    Allowed("StridedSliceGrad", ("train-vq",), "the gradient of those slices"),
)


def unlisted(acl_by_graph: Mapping[str, Counter[str]]) -> dict[str, set[str]]:
    """Return by graph the operators of the older kind that it may not use."""
    found = {graph: {name for name in acl if not _entries(graph, name)} for graph, acl in acl_by_graph.items()}
    return {graph: names for graph, names in found.items() if names}


def unused(acl_by_graph: Mapping[str, Counter[str]]) -> set[Allowed]:
    """Return the entries that no graph needs."""
    used = {entry for graph, acl in acl_by_graph.items() for name in acl for entry in _entries(graph, name)}
    return set(ACL_OPERATORS) - used


def _entries(graph: str, operator: str) -> list[Allowed]:
    return [entry for entry in ACL_OPERATORS if entry.operator == operator and graph.startswith(entry.graphs)]
