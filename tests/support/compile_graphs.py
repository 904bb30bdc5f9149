"""Compiles graphs for Ascend as far as that is possible without one: `python -m tests.support.compile_graphs`.

In a process of its own, because the variables that MindSpore reads at import decide that graphs are dumped after type
inference and then neither given kernels nor run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.support.command import environment
from tests.support.garbage import rarely_collect_garbage
from tests.support.graph_ir import Node, read_nodes

if TYPE_CHECKING:
    from pipelines.dry_run.graphs import GraphSizes

NO_RESULT = "'NoneType' object has no attribute 'asnumpy'"  # of a graph that was compiled and not run
CARDS = 8  # of the graphs of ZeRO


@dataclass(frozen=True, slots=True)
class Compilation:
    """A graph to compile: its name, number type, module of kernels, number of layers, and whether sizes are real."""

    graph: str
    dtype: str
    kernels: str = "ascend"
    layers: int = 2
    is_full_size: bool = False


def compile_graphs(compilations: Sequence[Compilation], folder: Path) -> dict[Compilation, list[Node]]:
    """Compile all in one process; return the nodes of each. Raises AssertionError if one does not compile."""
    variables = {
        "MS_DEV_PRECOMPILE_ONLY": "1",
        "MS_DEV_DUMP_IR_PASSES": "validate",
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(folder / "graphs"),
    }
    jobs = json.dumps([[one.graph, one.dtype, one.kernels, one.layers, one.is_full_size] for one in compilations])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compile_graphs", jobs],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    files = json.loads(done.stdout.splitlines()[-1])
    return {
        one: [node for name in names for node in read_nodes((folder / "graphs" / name).read_text(encoding="utf-8"))]
        for one, names in zip(compilations, files, strict=True)
    }


def main() -> None:
    """Compile the graphs that the argument lists; print the names of the dumped files of each."""
    rarely_collect_garbage()
    folder = Path(os.environ["MS_DEV_SAVE_GRAPHS_PATH"])
    done: set[str] = set()
    found = []
    errors = []
    for values in json.loads(sys.argv[1]):
        try:
            _build(Compilation(*values))()
        except Exception as error:  # all graphs that do not compile are reported together
            if str(error) != NO_RESULT:
                errors.append(f"{values}: {error!s:.1500}")
        new = {path.name for path in folder.glob("*_validate_*.ir")} - done
        found.append(sorted(new))
        done |= new
    if errors:
        sys.exit("\n\n".join(errors))
    print(json.dumps(found))


def _build(one: Compilation) -> Callable[[], object]:
    """Build a graph, without memory for the parameters of the published models."""
    import mindspore as ms

    from pipelines.dry_run.graph_table import all_graphs
    from shared.device import Device
    from tests.support.bad_graphs import BAD_GRAPH

    sizes = _full_sizes() if one.is_full_size else small_sizes()
    sizes = replace(sizes, decoder=replace(sizes.decoder, num_hidden_layers=one.layers))
    device = Device("Ascend", one.dtype, ms.__version__, one.kernels)
    with ExitStack() as stack:
        for replacement in [*_group(), *(_no_memory() if one.is_full_size else [])]:
            stack.enter_context(replacement)
        return {**all_graphs(), BAD_GRAPH.name: BAD_GRAPH}[one.graph].build(sizes, device)


def _full_sizes() -> GraphSizes:
    """Return the sizes of the published models, with the head of all tokens: parts of it would need its memory."""
    from pipelines.dry_run.graphs import published_sizes

    sizes = published_sizes()
    return replace(sizes, visual_tokens=(0, sizes.decoder.vocab_size))


def small_sizes() -> GraphSizes:
    """Return sizes of models that have all kinds of layers."""
    from lm_stage.model.config import DecoderConfig
    from pipelines.dry_run.graphs import GraphSizes
    from tests.support.vision_models import TINY_IBQ
    from vq_stage.model.emu3_config import Emu3Config

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    return GraphSizes(
        decoder=DecoderConfig(vocab_size=512, hidden_size=256, intermediate_size=384, num_hidden_layers=2, **heads),
        tokenizer=Emu3Config(32, (1, 2), num_res_blocks=1, attn_resolutions=(1,), codebook_size=16),
        image_tokenizer=TINY_IBQ,
        side=16,
        pictures=2,
        rows=4,
        cache_length=127,
        seq_length=256,
        visual_tokens=(256, 512),
    )


def _group() -> list[Any]:
    """Return what makes collectives be built as in a group of processes."""
    from mindspore.ops.operations import comm_ops

    return [
        patch.object(comm_ops, "get_group_size", lambda group: CARDS),
        patch.object(comm_ops, "get_rank", lambda group: 0),
    ]


def _no_memory() -> list[Any]:
    """Return what makes parameters have a shape and a type, but no memory."""
    from mindspore import ops
    from mindspore.common.initializer import initializer
    from mindspore.nn.utils import no_init_parameters

    return [no_init_parameters(), patch.object(ops, "zeros", lambda shape, dtype: initializer("zeros", shape, dtype))]


if __name__ == "__main__":
    main()
