"""The family that a config.json selects, and its network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.errors import CheckpointError
from tests.support.vision_models import TINY_IBQ, TINY_VQ
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.families import FAMILIES, build_network, config_from_dict, family_of, read_config
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.model.kernels import cpu


def test_both_golden_directories(golden_vq: Path, golden_ibq: Path) -> None:
    assert type(read_config(golden_vq)) is Emu3Config
    assert type(read_config(golden_ibq)) is IbqConfig


@pytest.mark.parametrize("config", [TINY_VQ, TINY_IBQ], ids=["Emu3", "IBQ"])
@pytest.mark.parametrize("model_type", ["kept", "unknown", None])
def test_keys_decide_without_a_known_model_type(config: Emu3Config | IbqConfig, model_type: str | None) -> None:
    raw: dict[str, Any] = {**config.to_dict()}
    if model_type != "kept":
        raw["model_type"] = model_type
    assert config_from_dict(raw) == config
    assert type(build_network(config, cpu)).__name__ == family_of(config).network[1]


def test_a_named_family_decides_over_the_keys() -> None:
    raw = {**TINY_IBQ.to_dict(), "model_type": "Emu3VisionVQ"}
    with pytest.raises(CheckpointError, match="missing temporal_downsample_factor"):
        config_from_dict(raw)


def test_reading_a_config_does_not_import_mindspore(golden_ibq: Path) -> None:
    code = (
        "import sys; from vq_stage.model.weights import codec_fingerprint;"
        " print(len(codec_fingerprint(sys.argv[1]))); sys.exit('mindspore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(golden_ibq)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "64"), done.stderr


def test_families_have_distinct_model_types() -> None:
    names = [name for family in FAMILIES for name in family.model_types]
    assert len(names) == len(set(names))
    assert json.dumps(sorted(names)) == '["Emu3VisionVQ", "Emu3p5VisionVQ", "emu3_vqgan"]'
