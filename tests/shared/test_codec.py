"""Codecs as JSON, and the values that no codec can have."""

from __future__ import annotations

from typing import Any

import pytest

from shared.codec import EMU3, EMU35, MAX_CODEBOOK_SIZE, Codec, code_dtype
from shared.errors import DatasetError, UsageError

VALUES: dict[str, Any] = {"fingerprint": "ab" * 32, "codebook_size": 512, "spatial_factor": 8, "temporal_factor": 4}


def test_json_round_trip() -> None:
    assert Codec.from_json(VALUES, "plan").to_json() == VALUES
    assert Codec.from_json({**VALUES, "fingerprint": None}, "plan") == Codec(None, 512, 8, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", 7),
        ("codebook_size", 0),
        ("codebook_size", MAX_CODEBOOK_SIZE + 1),
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
    assert Codec("0123456789abcdef", 1, 8, 4).short_fingerprint == "0123456789ab"
    assert Codec(None, 1, 8, 4).short_fingerprint == "unknown"


@pytest.mark.parametrize(
    ("codebook_size", "dtype"),
    [(1, "uint16"), (32_768, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (1 << 24, "uint32")],
)
def test_the_codebook_decides_how_codes_are_stored(codebook_size: int, dtype: str) -> None:
    assert code_dtype(codebook_size) == Codec(None, codebook_size, 8, 4).code_dtype == dtype


def test_a_temporal_factor_of_1_means_images_only() -> None:
    assert EMU3.supports_video
    assert not EMU35.supports_video


def test_codecs_with_other_fingerprints_or_sizes_do_not_mix() -> None:
    one, other, unknown = Codec("aa", 512, 8, 4), Codec("bb", 512, 8, 4), Codec(None, 512, 8, 4)
    assert one.is_compatible(one)
    assert one.is_compatible(unknown)
    assert unknown.is_compatible(other)
    assert not one.is_compatible(other)
    assert not unknown.is_compatible(Codec(None, 513, 8, 4))


def test_published_codecs_are_known_by_the_size_of_their_codebook() -> None:
    assert Codec.published(32_768) == EMU3
    assert Codec.published(131_072) == EMU35
    assert Codec.published(512) == Codec(None, 512, 8, 4)
