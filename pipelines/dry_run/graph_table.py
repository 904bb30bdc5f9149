"""The table of all graphs."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.dry_run.graphs import Graph


def all_graphs() -> Mapping[str, Graph]:
    """Return all graphs by name, those of the vision stage first."""
    from pipelines.dry_run.language_graphs import LANGUAGE_GRAPHS
    from pipelines.dry_run.vision_graphs import VISION_GRAPHS

    return {graph.name: graph for graph in (*VISION_GRAPHS, *LANGUAGE_GRAPHS)}
