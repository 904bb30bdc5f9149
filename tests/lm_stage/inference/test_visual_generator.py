"""Generated images and videos: parity with upstream, independence of the batch, and continuation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lm_stage import SamplingOptions
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest
from shared.errors import JobStoppedError
from shared.tokens.grid_formats import EMU35_IMAGE, IMAGE, ROWS, UNIVLA
from shared.tokens.visual_tokens import grid_codes, grid_tokens
from tests.support.golden_language import TOP_50, GoldenLanguageModel

GREEDY = SamplingOptions(greedy=True)


def generated_codes(generator: VisualGenerator, request: VisualRequest) -> list[int]:
    [sequence] = generator.run([request])
    return sequence.codes


def test_greedy_images_with_guidance_are_those_of_upstream(golden: GoldenLanguageModel) -> None:
    size = {"height": golden.height, "width": golden.width}
    layout = golden.model.layout
    for sample, codes_THW in enumerate(golden.generate(golden.prompts, GREEDY, golden.guidance_scale, **size)):
        tokens = [*grid_tokens(codes_THW, layout, IMAGE), layout.eos]
        np.testing.assert_array_equal(tokens, golden.arrays[f"tokens_{sample}"])


def test_greedy_images_of_emu35_are_those_of_upstream(emu35: GoldenLanguageModel) -> None:
    """Guided codes in Emu3.5's grammar, and the way back from upstream's tokens."""
    size, layout = {"height": emu35.height, "width": emu35.width}, emu35.model.layout
    for sample, codes_THW in enumerate(emu35.generate(emu35.prompts, GREEDY, emu35.guidance_scale, **size)):
        tokens = emu35.arrays[f"tokens_{sample}"]
        np.testing.assert_array_equal(grid_tokens(codes_THW, layout, EMU35_IMAGE), tokens)
        np.testing.assert_array_equal(grid_codes(tokens, 1, *size.values(), layout, EMU35_IMAGE), codes_THW)


def test_images_do_not_depend_on_the_batch(golden: GoldenLanguageModel) -> None:
    prompts = [golden.prompts[index % 3] for index in range(16)]
    together = golden.generate(prompts, seed=7, batch_size=3)
    assert len({codes.tobytes() for codes in together}) > 10, "sixteen samples should differ"
    np.testing.assert_array_equal(together, golden.generate(prompts, seed=7, batch_size=1))


def test_guidance_of_one_is_the_conditional_model_alone(golden: GoldenLanguageModel) -> None:
    one = golden.generate(golden.prompts[:1], GREEDY, guidance_scale=1.0)
    two_rows = golden.model.visual_generator(1, 60, GREEDY, guidance_scale=1.0000001)
    [sequence] = two_rows.run([golden.request()])
    np.testing.assert_array_equal(one[0], sequence.codes_THW())


def test_seeds_and_guidance_matter(golden: GoldenLanguageModel) -> None:
    prompts = golden.prompts[:1]
    assert not np.array_equal(golden.generate(prompts, seed=1), golden.generate(prompts, seed=2))
    strongly_guided = golden.generate(prompts, GREEDY, guidance_scale=9.0)
    assert not np.array_equal(golden.generate(prompts, GREEDY), strongly_guided)


@pytest.mark.parametrize("generated", [1, 4, 5, 11])
def test_an_interrupted_image_is_continued(golden: GoldenLanguageModel, generated: int) -> None:
    generator, request = golden.model.visual_generator(1, 60, TOP_50, 3.0), golden.request(seed=5)
    unbroken = generated_codes(generator, request)
    assert generated_codes(generator, request) == unbroken
    assert generated_codes(generator, replace(request, codes=tuple(unbroken[:generated]))) == unbroken


@pytest.mark.parametrize("generated", [0, 1, 11, 12, 20])
def test_an_interrupted_video_is_continued(golden: GoldenLanguageModel, generated: int) -> None:
    """The first of three frames is given; the codes of an earlier run end in the second or the third."""
    generator, prefix = golden.model.visual_generator(1, 70, TOP_50, 3.0), tuple(range(12))
    request = golden.request(seed=5, frames=3, grid_format=UNIVLA, prefix_codes=prefix)
    unbroken = generated_codes(generator, request)
    assert len(unbroken) == 24
    interrupted = replace(request, codes=tuple(unbroken[:generated]))
    assert generated_codes(generator, interrupted) == unbroken
    prefilled = generated_codes(generator, replace(interrupted, is_replayed=False))
    assert (len(prefilled), prefilled[:generated]) == (24, unbroken[:generated])
    other_prefix = replace(request, prefix_codes=prefix[::-1])
    assert unbroken != generated_codes(generator, other_prefix), "the prefix must matter"


def test_a_prefix_is_continued_as_if_it_had_been_generated(golden: GoldenLanguageModel) -> None:
    """With greedy decoding, the first frame of a video, given as its prefix, leads to the same video."""
    common = {"sampling": GREEDY, "grid_format": ROWS, "height": 2, "frames": 3}
    whole = golden.generate(golden.prompts[:1], **common)
    assert (whole.dtype, whole.shape) == (np.uint16, (1, 3, 2, 4))
    prefix = whole[0, 0].reshape(-1).tolist()
    np.testing.assert_array_equal(golden.generate(golden.prompts[:1], prefix_codes=prefix, **common), whole)


def test_logits_that_are_not_finite_stop_the_job_with_key_and_offset(
    golden: GoldenLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = golden.model.visual_generator(1, 60, SamplingOptions(), 1.0)
    generator.add(golden.request(key="the key", negative_ids=None))
    generator.step()
    broken = np.full((1, 1, golden.model.layout.codebook_size), np.nan, np.float32)
    monkeypatch.setattr(generator.model, "decode_step", lambda tokens, positions: broken)
    with pytest.raises(JobStoppedError, match=r"the key.*offset 1"):
        generator.step()
