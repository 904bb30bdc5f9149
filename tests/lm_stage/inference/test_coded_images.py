"""Datasets of images are opened only if their codes are the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.inference.coded_images import open_coded_images
from lm_stage.model.model_directory import ModelDirectory
from shared.errors import ConfigMismatchError
from tests.support import handmade


def test_codes_of_another_tokenizer_are_refused(small_lm: Path, tmp_path: Path) -> None:
    codes = handmade.make(tmp_path / "codes")
    codec = codes.plan().settings.codec
    model = ModelDirectory.open(small_lm)
    for matching in (codec, replace(codec, fingerprint=None)):
        images = open_coded_images(str(codes.root), replace(model, codec=matching))
        assert images is not None
        assert list(images) == ["one", "two", "three"]
    for other in (replace(model.codec, fingerprint=None), replace(codec, fingerprint="0" * 64)):
        with pytest.raises(ConfigMismatchError, match="encode the images with the model's tokenizer"):
            open_coded_images(str(codes.root), replace(model, codec=other))
    assert open_coded_images(None, model) is None
