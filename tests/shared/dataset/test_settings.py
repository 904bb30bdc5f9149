"""Dataset settings as JSON: what is written, and which field an error names."""

from __future__ import annotations

from typing import Any

import pytest

from shared.codec import EMU3, Codec
from shared.dataset.settings import SEQUENCE_FORMAT, DatasetSettings
from shared.errors import DatasetError

CODEC = Codec("ab" * 32, 512, 8, 4)
JSON: dict[str, Any] = {
    "codec": {"fingerprint": "ab" * 32, "codebook_size": 512, "spatial_factor": 8, "temporal_factor": 4},
    "preprocessing": {"rule": "none"},
    "clips": {"frames": 16},
    "units": {"rows": 3},
}


@pytest.mark.parametrize(
    "values",
    [
        JSON,
        {"codec": JSON["codec"]},
        {"codec": JSON["codec"], "import": {"from": "upstream list"}, "units": {"rows": 256}},
        {"codec": JSON["codec"], "format": SEQUENCE_FORMAT, "generation": {"suffix": ""}, "units": {"rows": 1}},
    ],
)
def test_json_round_trip(values: dict[str, Any]) -> None:
    assert DatasetSettings.from_json(values, "plan").to_json() == values


def test_fingerprints_leave_out_what_does_not_decide_the_codes() -> None:
    settings = DatasetSettings.from_json(JSON, "plan")
    assert settings.fingerprints() == {
        "format": "emu3.codes/1",
        "codec": JSON["codec"],
        "preprocessing": {"rule": "none"},
    }
    generated = DatasetSettings(CODEC, 3, SEQUENCE_FORMAT, generation={"suffix": ""}, imported={"from": "x"})
    assert set(generated.fingerprints()) == {"format", "codec", "generation"}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"codec": {}}, "plan: settings: codec: missing"),
        ({"codec": None}, "plan: settings: codec: expected an object"),
        ({"codec": {**JSON["codec"], "codebook_size": 0}}, "plan: settings: codec.codebook_size: expected 1"),
        ({"units": {}}, "plan: settings.units.rows: expected an integer"),
        ({"units": {"rows": 0}}, "plan: settings.units.rows: expected an integer of at least 1, got 0"),
        ({"units": 3}, "plan: settings.units: expected an object, got 3"),
        ({"clips": []}, "plan: settings.clips: expected an object"),
        ({"format": "emu3.codes/9"}, "plan: settings.format: expected one of emu3.codes/1, emu3.seq/1, emu3.answer/1"),
        ({"format": []}, "plan: settings.format: expected one of"),
        ({"colour": {}}, "plan: settings.colour: unknown field"),
    ],
)
def test_errors_name_the_field(changes: dict[str, Any], shown: str) -> None:
    with pytest.raises(DatasetError) as error:
        DatasetSettings.from_json({**JSON, **changes}, "plan")
    assert str(error.value).startswith(shown)


def test_settings_must_be_an_object() -> None:
    with pytest.raises(DatasetError, match="plan: settings: expected an object"):
        DatasetSettings.from_json([], "plan")
    assert DatasetSettings(EMU3).to_json() == {"codec": EMU3.to_json()}
