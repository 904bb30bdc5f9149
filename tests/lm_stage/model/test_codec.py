"""The codec of a model, as its config.json records it or the user's tokenizer completes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_stage.model.codec import codec_keys, read_codec
from shared.codec import EMU3, EMU35, Codec
from shared.errors import CheckpointError
from tests.support.token_layouts import REAL as LAYOUT


def write(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"token_layout": LAYOUT.to_dict(), **config}))
    return folder


@pytest.mark.parametrize(
    "codec",
    [
        EMU3,
        EMU35,
        Codec("aa", 512, 8, 4),
        Codec("aa", 512, 16, 1),
        Codec(None, 131_072, 8, 1),
        Codec("bb", 32_768, 4, 4),
    ],
)
def test_what_is_recorded_is_read_back(codec: Codec, tmp_path: Path) -> None:
    layout = replace(LAYOUT, codebook_size=codec.codebook_size)
    assert read_codec(write(tmp_path, **codec_keys(codec)), layout) == codec


def test_a_codec_with_the_published_factors_is_recorded_by_its_fingerprint_alone() -> None:
    for codec in (EMU3, EMU35):
        assert codec_keys(replace(codec, fingerprint="aa")) == {"codec_fingerprint": "aa"}
    assert codec_keys(Codec("aa", 512, 16, 1)) == {
        "codec_fingerprint": "aa",
        "codec_spatial_factor": 16,
        "codec_temporal_factor": 1,
    }


def test_a_checkpoint_that_records_nothing_has_the_codec_that_is_given(tmp_path: Path) -> None:
    given = Codec("aa", LAYOUT.codebook_size, 16, 1)
    assert read_codec(write(tmp_path), given=given) == given
    assert read_codec(tmp_path) == Codec(None, LAYOUT.codebook_size, 8, 4)
    recorded = write(tmp_path, codec_fingerprint="aa")
    assert read_codec(recorded, given=given) == given, "earlier versions recorded no factors"


def test_another_tokenizer_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    model = write(tmp_path, codec_fingerprint="a" * 64)
    with pytest.raises(CheckpointError, match=r"codes of vision tokenizer aaaaaaaaaaaa, got bbbbbbbbbbbb"):
        read_codec(model, given=Codec("b" * 64, LAYOUT.codebook_size, 8, 4))


@pytest.mark.parametrize(
    "wrong", [{"codec_fingerprint": 7}, {"codec_spatial_factor": "16"}, {"codec_temporal_factor": 0}]
)
def test_a_record_that_is_no_codec_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: codec\.\w+: expected"):
        read_codec(write(tmp_path, **wrong))
