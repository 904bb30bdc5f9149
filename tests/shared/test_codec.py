"""Codecs as JSON, and the values that no codec can have."""

from __future__ import annotations

from typing import Any

import pytest

from shared.codec import Codec
from shared.errors import DatasetError, UsageError

VALUES: dict[str, Any] = {"fingerprint": "ab" * 32, "codebook_size": 512, "spatial_factor": 8, "temporal_factor": 4}


def test_json_round_trip() -> None:
    assert Codec.from_json(VALUES, "plan").to_json() == VALUES
    assert Codec.from_json({**VALUES, "fingerprint": None}, "plan") == Codec(None, 512)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", 7),
        ("codebook_size", 0),
        ("codebook_size", 65537),
        ("codebook_size", "512"),
        ("codebook_size", True),
        ("spatial_factor", 0),
        ("temporal_factor", 4.0),
    ],
)
def test_bad_values_name_the_field(name: str, value: object) -> None:
    with pytest.raises(DatasetError, match=f"plan: codec.{name}: expected .* got"):
        Codec.from_json({**VALUES, name: value}, "plan")
    with pytest.raises(UsageError, match=f"codec.{name}: expected"):
        Codec(**{**VALUES, name: value})


@pytest.mark.parametrize("values", [None, "codec", [], {}, {**VALUES, "dtype": "uint16"}, {"codebook_size": 512}])
def test_other_json_is_refused(values: object) -> None:
    with pytest.raises(DatasetError, match=r"^plan: codec: (expected an object|missing)"):
        Codec.from_json(values, "plan")


def test_short_fingerprint() -> None:
    assert Codec("0123456789abcdef", 1).short_fingerprint == "0123456789ab"
    assert Codec(None, 1).short_fingerprint == "unknown"
