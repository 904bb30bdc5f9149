"""Every compiled graph of every command has kernels on Ascend; those that run often have the newer kind.

Nothing runs: graphs are compiled as far as all types are known, and held against what MindSpore's Ascend plug-in has.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.acl_operators import unlisted, unused
from tests.support.audit_table import (
    PAGE,
    PUBLISHED_LAYERS,
    UPDATE_COMMAND,
    acl_by_graph,
    audit,
    counts,
    small_compilations,
    table_of,
    tables,
    with_tables,
)
from tests.support.compile_graphs import Compilation
from tests.support.large_constants import (
    PUBLISHED_BYTES,
    SMALL_BYTES,
    large_constants,
    unlisted_constants,
    unused_entries,
)
from tests.support.operator_table import VERSION, Usage

pytestmark = pytest.mark.skipif(
    version("mindspore") != VERSION, reason=f"the table of operators is that of MindSpore {VERSION}"
)
PUBLISHED_DTYPE = "bfloat16"


@pytest.fixture(scope="module")
def usages(tmp_path_factory: pytest.TempPathFactory) -> dict[Compilation, Usage]:
    """The launches of every graph in float32 and bfloat16, with models of two layers.

    float16 is a slow test: it compiles a third of the graphs, and bfloat16 is the type that fewer kernels have.
    """
    chosen = [one for one in small_compilations() if one.dtype != "float16"]
    return audit(chosen, tmp_path_factory.mktemp("small"))


def test_every_operator_has_a_kernel_for_its_types(usages: dict[Compilation, Usage]) -> None:
    """Also with `--kernels plain`."""
    assert {one: usage.problems for one, usage in usages.items() if usage.problems} == {}


def test_operators_of_the_older_kind_are_listed_with_a_reason(usages: dict[Compilation, Usage]) -> None:
    found = acl_by_graph(usages)
    assert unlisted(found) == {}
    assert unused(found) == set()


def test_large_constants_are_listed_with_a_reason(usages: dict[Compilation, Usage]) -> None:
    """Zeros of a gradient's shape, for example, would take the memory of the gradients a second time."""
    found = large_constants(usages, SMALL_BYTES)
    assert unlisted_constants(found) == set()
    assert unused_entries(found) == set()


def test_recomputed_layers_are_computed_twice(usages: dict[Compilation, Usage]) -> None:
    """A layer that is recomputed launches its products again; without that `--recompute` would save nothing."""
    for dtype in ("float32", "bfloat16"):
        kept, again = (usages[Compilation(f"training step{end}", dtype)].launches for end in ("", ", recompute"))
        assert again["MatMul"] > kept["MatMul"]


def test_docs_show_the_audit(usages: dict[Compilation, Usage]) -> None:
    page, audited = PAGE.read_text(encoding="utf-8"), tables(usages)
    shown = counts(table_of(page, "graphs"))
    assert {name: shown.get(name) for name in counts(audited["graphs"])} == counts(audited["graphs"]), UPDATE_COMMAND
    assert table_of(page, "launches") == audited["launches"], f"run {UPDATE_COMMAND}"


@pytest.mark.slow
def test_every_type_has_kernels_and_is_in_the_docs(tmp_path: Path) -> None:
    usages = audit(small_compilations(), tmp_path)
    assert {one: usage.problems for one, usage in usages.items() if usage.problems} == {}
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, usages) == page, f"run {UPDATE_COMMAND}"


@pytest.mark.slow
def test_plain_kernels_recompute_nothing(tmp_path: Path) -> None:
    """The documentation says so; if this fails, it is time to say otherwise."""
    both = [Compilation(f"training step{end}", "bfloat16", "cpu") for end in ("", ", recompute")]
    kept, again = audit(both, tmp_path).values()
    assert kept.launches == again.launches


@pytest.mark.slow
def test_published_models_have_kernels(tmp_path: Path) -> None:
    """At the width, the number of layers and the vocabulary of the published models; they need no memory."""
    from pipelines.dry_run.graph_table import all_graphs

    whole = [
        Compilation(graph.name, dtype, "ascend", PUBLISHED_LAYERS, is_full_size=True)
        for graph in all_graphs().values()
        for dtype in (PUBLISHED_DTYPE if PUBLISHED_DTYPE in graph.dtypes else "float32",)
    ]
    usages = audit(whole, tmp_path)
    assert large_constants(usages, PUBLISHED_BYTES) == set()
    assert {one: usage.problems for one, usage in usages.items() if usage.problems} == {}
    assert unlisted(acl_by_graph(usages)) == {}
