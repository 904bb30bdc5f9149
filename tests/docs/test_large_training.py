"""The packaged configuration for MindFormers describes Emu3's decoder and the columns that the export writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_stage.export.mindrecord import COLUMNS, IGNORED_LABEL
from lm_stage.model.config import DecoderConfig
from lm_stage.model.mindformers import mindformers_name
from lm_stage.model.weights import parameter_shapes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "large-training.md").read_text(encoding="utf-8")
PARAMETERS = 8_492_011_520  # of the published checkpoint


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "pipelines" / "examples" / "mindformers" / "emu3-8b.yaml").read_text())


@pytest.fixture(scope="module")
def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    model = config["model"]["model_config"]
    names = ("hidden_size", "intermediate_size", "vocab_size", "rms_norm_eps", "tie_word_embeddings")
    described = {name: model[name] for name in names} | {
        "num_hidden_layers": model["num_layers"],
        "num_attention_heads": model["num_heads"],
        "num_key_value_heads": model["n_kv_heads"],
        "max_position_embeddings": model["max_position_embedding"],
        "rope_theta": model["theta"],
    }
    return parameter_shapes(DecoderConfig.from_dict(described))


def test_the_model_has_the_parameters_of_the_published_checkpoint(shapes: dict[str, tuple[int, ...]]) -> None:
    assert len(shapes) == 291
    assert sum(map(math.prod, shapes.values())) == PARAMETERS


def test_the_page_lists_every_name_and_shape(shapes: dict[str, tuple[int, ...]]) -> None:
    listed = {line for line in PAGE.splitlines() if line.startswith(("| `model.", "| `lm_head."))}
    kinds = {name: shape for name, shape in shapes.items() if "layers" not in name or ".layers.0." in name}
    expected = set()
    for name, shape in kinds.items():
        ours, theirs = (text.replace(".layers.0.", ".layers.N.") for text in (name, mindformers_name(name)))
        expected.add(f"| `{ours}` | `{theirs}` | ({', '.join(map(str, shape))}) |")
    assert listed == expected


def test_the_data_and_the_parallel_dimensions_fit(config: dict[str, Any]) -> None:
    parallel, model = config["parallel_config"], config["model"]["model_config"]
    assert parallel["data_parallel"] * parallel["model_parallel"] * parallel["pipeline_stage"] == 16
    assert model["vocab_size"] % parallel["model_parallel"] == model["n_kv_heads"] % parallel["model_parallel"] == 0
    assert model["num_layers"] % parallel["pipeline_stage"] == 0
    assert parallel["micro_batch_num"] >= parallel["pipeline_stage"]
    dataset = config["train_dataset"]
    assert dataset["input_columns"] == dataset["construct_args_key"] == list(COLUMNS)
    assert config["parallel"]["dataset_strategy"] == [[parallel["data_parallel"], 1]] * len(COLUMNS)
    assert model["ignore_token_id"] == IGNORED_LABEL
