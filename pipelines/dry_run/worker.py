"""Compiles one graph on a simulated NPU and runs it there.

python -m pipelines.dry_run.worker GRAPH DTYPE CARDS KERNELS
"""

from __future__ import annotations

import sys

from pipelines.dry_run.graph_table import all_graphs
from pipelines.dry_run.graphs import Call, published_sizes
from pipelines.dry_run.job import SFT
from shared.device import Device, setup_device
from shared.errors import RelayError
from shared.jobs.process_tree import exit_with_parent


def run(name: str, dtype: str, cards: int, kernels: str) -> None:
    """Raises DeviceError without CANN, and what MindSpore raises for a graph that does not compile."""
    device = setup_device("ascend", dtype, kernels=kernels)
    if cards > 1:
        from mindspore import communication

        communication.init()
    _build(name, cards, device)()


def _build(name: str, cards: int, device: Device) -> Call:
    if name != SFT:
        return all_graphs()[name].build(published_sizes(), device)
    from pipelines.dry_run.language_graphs import whole_step

    return whole_step(cards, published_sizes(), device)


if __name__ == "__main__":
    exit_with_parent()
    graph, number_type, count, module = sys.argv[1:]
    try:
        run(graph, number_type, int(count), module)
    except RelayError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
