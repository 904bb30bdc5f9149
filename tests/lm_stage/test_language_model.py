"""From texts and token ids to codes and pixels, and the calls that are refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from lm_stage import ImageRequest, LanguageModel, SamplingOptions, VideoRequest
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.text.renderer import SequenceRenderer
from shared.errors import CheckpointError, ShapeError, UsageError
from shared.tokens.grid_formats import IMAGE
from tests.support.golden_language import GoldenLanguageModel
from tests.support.shared_caches import SharedCaches
from vq_stage import VisionTokenizer
from vq_stage.model.weights import EMBEDDED_TOKENIZER


def test_bad_calls_are_refused(golden: GoldenLanguageModel, golden_lm: Path) -> None:
    model = golden.model
    for prompt in ([303, 108], []):
        with pytest.raises(UsageError, match="IMG"):
            golden.generate([prompt])
    with pytest.raises(UsageError, match="positions"):
        golden.generate(golden.prompts[:1], height=64, width=64)
    with pytest.raises(ShapeError, match="820"):
        model.logits([820])
    with pytest.raises(CheckpointError, match="819"):
        LanguageModel.from_pretrained(golden_lm, layout={**asdict(model.layout), "codebook_size": 513})
    with pytest.raises(CheckpointError, match="layout"):
        LanguageModel.from_pretrained(golden_lm)
    with pytest.raises(CheckpointError, match="text tokenizer"):
        model.encode_text("a red apple")


@pytest.fixture(scope="module")
def text_model(small_lm: Path) -> LanguageModel:
    """A model with a text tokenizer."""
    model = LanguageModel.from_pretrained(small_lm)
    model.backend = SharedCaches(model.backend)
    return model


def test_texts_become_images_of_the_vision_tokenizer(text_model: LanguageModel) -> None:
    request = ImageRequest(prompts=["a red apple", "a green pear"], height=2, width=3, negative_prompt="a pear", seed=5)
    codes = text_model.generate_images(request)
    assert (codes.dtype, codes.shape) == (np.uint16, (2, 2, 3))
    pixels = VisionTokenizer.from_pretrained(EMBEDDED_TOKENIZER).decode_images(codes)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (2, 16, 24, 3))
    renderer = SequenceRenderer(text_model.text_tokenizer, text_model.layout)
    prompt, negative = (renderer.generation_prompt([text], IMAGE, 1, 2, 3) for text in ("a red apple", "a pear"))
    from_ids = VisualRequest("0", prompt.tolist(), negative.tolist(), height=2, width=3, seed=5)
    np.testing.assert_array_equal(codes[:1], text_model.generate_codes([from_ids], SamplingOptions(), 3.0)[0])
    assert text_model.generate_images(replace(request, prompts=[])).shape == (0, 2, 3)
    with pytest.raises(UsageError, match="prompt 0: expected negative_ids"):
        text_model.generate_codes([replace(from_ids, negative_ids=None)], SamplingOptions(), 3.0)


def test_texts_become_videos_that_continue_their_prefixes(text_model: LanguageModel) -> None:
    request = VideoRequest(prompts=["a red apple", "a green pear"], frames=3, height=2, width=3)
    whole = text_model.generate_videos(request)
    assert (whole.dtype, whole.shape) == (np.uint16, (2, 3, 2, 3))
    continued = text_model.generate_videos(replace(request, prefix_codes_BTHW=whole[:, :1]))
    np.testing.assert_array_equal(continued[:, 0], whole[:, 0])
    for shape in ((2, 3, 2, 3), (1, 1, 2, 3), (2, 1, 3, 2), (2, 2, 3)):
        with pytest.raises(ShapeError, match=r"prefix_codes_BTHW|rank"):
            text_model.generate_videos(replace(request, prefix_codes_BTHW=np.zeros(shape, np.uint16)))


def test_text_is_encoded_and_decoded(text_model: LanguageModel) -> None:
    ids = text_model.encode_text("a red apple <|image start|>")
    assert not set(ids) & set(text_model.layout.control_ids.values())
    assert text_model.decode_text(ids) == "a red apple <|image start|>"
