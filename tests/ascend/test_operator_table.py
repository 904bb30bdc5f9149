"""The audit finds what has no kernel on Ascend: an operator without one, and a type that its kernel does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compile_graphs import Compilation, compile_graphs
from tests.support.graph_ir import Constant, Node, read_nodes
from tests.support.operator_table import kernel_kind, problems_of, usage_of

HEADER = "# Total subgraphs: {}\n"
CONSTANT = """  %0(CNode_1) = PrimFunc_MatMul(%para1_x, Tensor(shape=[2, 1], dtype=Float32, value=
[[ 1.0e+00]
 [ 1.0e+00]]), Bool(0)) cnode_attrs: {checkpoint: Bool(1)}
      : (<Ref[Tensor[Float32]], (4, 2), ref_key=x>, <Tensor[Float32], (2, 1)>, <Bool, NoShape>) -> (<Tensor[Float32]>)
"""


def test_the_audit_finds_both_mistakes_of_a_hand_made_graph(tmp_path: Path) -> None:
    """Compiled as all graphs are; if this finds nothing, the audit of the others says nothing either."""
    one = Compilation("two mistakes", "float64")
    problems = usage_of(compile_graphs([one], tmp_path)[one]).problems
    assert [problem.split(":")[0] for problem in problems] == ["Cholesky", "Ger", "Ger"]
    assert "Cholesky: no kernel" in problems
    assert "Ger: input 0 is float64, expected float16 or float32" in problems


def test_graphs_that_do_not_compile_are_reported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such graph"):
        compile_graphs([Compilation("no such graph", "float32")], tmp_path)


def test_an_operator_without_a_kernel_is_found() -> None:
    assert kernel_kind("Cholesky") is None
    assert usage_of([Node("Cholesky", ("float32",))]).problems == ("Cholesky: no kernel",)


def test_a_type_that_a_kernel_does_not_take_is_found() -> None:
    assert problems_of(Node("Ger", ("float32", "bfloat16"))) == [
        "Ger: input 1 is bfloat16, expected float16 or float32"
    ]
    assert problems_of(Node("BatchNorm", ("bfloat16", "bfloat16")))[0].startswith("BatchNorm: input 1 is bfloat16")
    assert problems_of(Node("FlashAttentionScore", ("float32",))) == ["FlashAttentionScore: input 0 is float32"]
    assert problems_of(Node("Ger", ("float32", "float32"))) == []


def test_launches_are_kernels_only() -> None:
    nodes = [
        Node(name, (None,)) for name in ("Load", "Reshape", "MakeTuple", "MatMul", "MatMul", "Assign", "AllReduce")
    ]
    usage = usage_of(nodes)
    assert dict(usage.launches) == {"MatMul": 2, "Assign": 1, "AllReduce": 1}
    assert (usage.aclnn, dict(usage.acl)) == (2, {"Assign": 1})


def test_nodes_are_read_with_the_types_of_their_tensors_and_their_constants() -> None:
    weight = Constant("float32", (2, 1))
    assert read_nodes(HEADER.format(1) + CONSTANT) == [Node("MatMul", ("float32", "float32", None), (weight,))]
    assert weight.size_bytes == 8
    assert Constant("bool", (2, 3)).size_bytes == 6


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEADER.format(2) + CONSTANT, id="a call of another graph"),
        pytest.param(CONSTANT, id="without a header"),
        pytest.param(HEADER.format(1) + CONSTANT.replace("-> (<", "=> (<"), id="a node of another form"),
        pytest.param(HEADER.format(1), id="empty"),
        pytest.param(HEADER.format(1) + CONSTANT.replace("PrimFunc_MatMul", "call @graph"), id="a call"),
    ],
)
def test_graphs_that_cannot_be_counted_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_nodes(text)
