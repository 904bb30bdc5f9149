"""Configurations of both namings, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import CheckpointError
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.families import read_config, read_config_file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch": 20}, "multiple of 32"),
        ({"double_z": True}, "double latents"),
        ({"codebook_size": 1 << 25}, "16777216"),
        ({"temporal_downsample_factor": 2}, "temporal_downsample_factor"),
    ],
)
def test_unsupported_configs_are_refused(golden_vq: Path, change: dict[str, object], message: str) -> None:
    raw = json.loads((golden_vq / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        Emu3Config.from_dict({**raw, **change})


def test_a_missing_config_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="missing ch_mult"):
        Emu3Config.from_dict({"ch": 32, "num_res_blocks": 1})


def test_hugging_face_config_round_trip(golden_vq: Path) -> None:
    config = read_config(golden_vq)
    assert Emu3Config.from_dict(config.to_dict()) == config


def test_an_unreadable_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"no-such\.json: no such file"):
        read_config_file(tmp_path / "no-such.json")


ABSURD: list[object] = [10**9, -1, 0, 1.5, True, None, "64", [1], {}, float("nan"), 10**30]


@pytest.mark.parametrize("naming", ["ch", "base_channels"])
@pytest.mark.parametrize("value", ABSURD, ids=repr)
def test_absurd_values_are_refused_naming_file_and_field(naming: str, value: object, tmp_path: Path) -> None:
    valid = Emu3Config().to_dict()
    if naming == "ch":
        renamed = {"base_channels": "ch", "channel_multiplier": "ch_mult", "latent_channels": "z_channels"}
        valid = {renamed.get(key, key): value for key, value in valid.items()}
    fields = [key for key in valid if key in ("ch", "ch_mult", "z_channels", *Emu3Config.__dataclass_fields__)]
    assert len(fields) == 10
    for field in fields:
        if isinstance(valid[field], list) and value in ([1], None) and not (field == "ch_mult" and value is None):
            continue
        (tmp_path / "config.json").write_text(json.dumps({**valid, field: value}))
        with pytest.raises(CheckpointError, match=rf"config\.json: {field}: expected"):
            read_config(tmp_path)


HOSTILE: dict[str, str] = {
    "lists": "[" * 100_000,
    "objects": '{"ch": ' * 100_000,
    "digits": '{"ch": ' + "9" * 5000 + "}",
    "list": "[]",
    "null": "null",
    "empty": "",
    "zero": "\0",
    "nan": '{"ch": NaN}',
    "large": '{"a": "' + "x" * (2 << 20) + '"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused_naming_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        read_config(tmp_path)


def test_too_many_channels_or_levels() -> None:
    valid = Emu3Config().to_dict()
    with pytest.raises(CheckpointError, match=r"here: .*level 3: 8192 channels"):
        Emu3Config.from_dict({**valid, "base_channels": 2048}, "here")
    with pytest.raises(CheckpointError, match=r"here: channel_multiplier: expected a list of 1 to 8"):
        Emu3Config.from_dict({**valid, "channel_multiplier": [1] * 40}, "here")


@pytest.mark.parametrize(
    ("files", "location", "expected"),
    [
        ((), "BAAI/Emu3-VisionTokenizer", "hf download BAAI/Emu3-VisionTokenizer"),
        ((), "./nowhere", "found nothing there"),
        (("run/model/config.json",), "run", "a run of `emu3 sft`"),
        (("codes/plan.arrow",), "codes", "a dataset of codes"),
        (("other/notes.txt",), "other", "no config.json"),
        (("model.safetensors",), "model.safetensors", "give the directory"),
    ],
)
def test_what_is_no_tokenizer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], location: str, expected: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        read_config(location)
    assert expected in str(raised.value)
