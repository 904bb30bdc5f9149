"""Loading, saving and resuming hold at most one tensor beside the model and the state of its optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import parameter_shapes, read_weights
from tests.support.command import finish, start_module
from tests.support.model_bases import save_again
from tests.support.models import write_language_model

SIZES = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2}
SLACK = 8 << 20  # for everything that is not a tensor of the model

Phases = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in bfloat16 whose float32 weights take about 150 MB, and its largest tensors 17 MB."""
    folder = tmp_path_factory.mktemp("memory")
    return save_again(write_language_model(folder / "base", **SIZES), folder / "model", "bfloat16")


def tensor_bytes(model: Path) -> list[int]:
    """Return the sizes of the weights in float32."""
    return [2 * len(tensor.data) for tensor in read_weights(model).values()]


def probe(model: Path, run: Path, task: str) -> Phases:
    done = finish(start_module("tests.support.memory_probe", model, run, task))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_checkpoint_is_streamed_and_resumed_tensor_by_tensor(model: Path, tmp_path: Path) -> None:
    """With ZeRO in one process: the parameters, float32 weights, gradients and two moments are five copies."""
    sizes = tensor_bytes(model)
    assert len(sizes) == len(parameter_shapes(DecoderConfig.from_directory(model)))
    largest, whole = max(sizes) + SLACK, sum(sizes)
    assert whole > 5 * largest, "a second copy must show"
    saved = probe(model, tmp_path, "save")
    for name in ("checkpoint", "model"):
        assert saved[name]["highest"] - saved[name]["before"] <= largest, name
    resumed = probe(model, tmp_path, "resume")
    for phase in (saved["load"], resumed["load"], resumed["restore"]):
        assert phase["highest"] - phase["after"] <= largest
    held = resumed["restore"]["after"] - resumed["load"]["before"]
    assert held < 6 * whole, "MindSpore takes about half a copy at its first operations"
