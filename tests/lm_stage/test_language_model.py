"""Parity with the upstream PyTorch model, and equivalence of every way to the same tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage import ImageRequest, LanguageModel, SamplingOptions, VideoRequest
from lm_stage.inference.visual_generator import VisualGenerator, VisualRequest
from lm_stage.model.config import DecoderConfig
from lm_stage.text.renderer import SequenceRenderer
from shared.errors import CheckpointError, JobStoppedError, ShapeError, UsageError
from shared.tokens.visual_tokens import IMAGE, ROWS, UNIVLA, grid_tokens
from vq_stage import VisionTokenizer
from vq_stage.model.weights import EMBEDDED_TOKENIZER

TOP_50 = SamplingOptions(top_k=50)
TOLERANCE = 1e-3  # of logits; measured 2.4e-5


@pytest.fixture(scope="module")
def golden(golden_lm: Path) -> dict[str, Any]:
    return json.loads((golden_lm / "expected.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden_lm: Path) -> dict[str, np.ndarray]:
    with np.load(golden_lm / "expected.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model(golden_lm: Path, golden: dict[str, Any]) -> LanguageModel:
    return LanguageModel.from_pretrained(golden_lm, layout=golden["layout"])


def generate(
    model: LanguageModel,
    golden: dict[str, Any],
    prompts: list[list[int]],
    sampling: SamplingOptions = TOP_50,
    guidance_scale: float = 3.0,
    batch_size: int = 16,
    **changes: Any,
) -> np.ndarray:
    """Return the codes (B, T, H, W) of prompts of token ids."""
    settings = {"height": 3, "width": 4, "seed": 0, "negative_ids": golden["negative"], **changes}
    requests = [VisualRequest(key=str(index), prompt_ids=ids, **settings) for index, ids in enumerate(prompts)]
    return np.array(model.generate_codes(requests, sampling, guidance_scale, batch_size))


@pytest.mark.parametrize("sample", [0, 1, 2])
def test_logits_are_those_of_upstream(
    model: LanguageModel, golden: dict[str, Any], arrays: dict[str, np.ndarray], sample: int
) -> None:
    logits = model.logits([*golden["prompts"][sample], *arrays[f"tokens_{sample}"]])
    np.testing.assert_allclose(logits, arrays[f"logits_{sample}"], atol=TOLERANCE, rtol=0)


def test_greedy_images_with_guidance_are_those_of_upstream(
    model: LanguageModel, golden: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    size = {"height": golden["height"], "width": golden["width"]}
    codes = generate(model, golden, golden["prompts"], SamplingOptions(greedy=True), golden["guidance_scale"], **size)
    for sample, codes_THW in enumerate(codes):
        tokens = [*grid_tokens(codes_THW, model.layout, IMAGE), model.layout.eos]
        np.testing.assert_array_equal(tokens, arrays[f"tokens_{sample}"])


def test_decode_steps_equal_the_forward_over_the_whole_sequence(model: LanguageModel, golden: dict[str, Any]) -> None:
    first, end = model.layout.first_visual_token, model.layout.end_of_visual
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, 90)
    whole = model.logits(ids)[:, first:end]
    cache = model.backend.cached(2, 100, first, end)
    cache.prefill(1, list(ids[:70]))
    for position in range(70, 90):
        step = cache.decode_step(np.array([0, ids[position]]), np.array([0, position]))
        np.testing.assert_allclose(step[1], whole[position], atol=TOLERANCE, rtol=0)


def test_a_long_prefill_runs_in_chunks(model: LanguageModel) -> None:
    first, end = model.layout.first_visual_token, model.layout.end_of_visual
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, 700)
    cache = model.backend.cached(1, 701, first, end)
    cache.prefill(0, list(ids[:-1]))
    step = cache.decode_step(ids[-1:], np.array([699]))
    np.testing.assert_allclose(step[0], model.logits(ids)[-1, first:end], atol=TOLERANCE, rtol=0)


def test_a_row_forgets_its_last_occupant(model: LanguageModel) -> None:
    random = np.random.default_rng(2)
    first, end = model.layout.first_visual_token, model.layout.end_of_visual
    cache = model.backend.cached(1, 100, first, end)
    cache.prefill(0, random.integers(0, 300, 99).tolist())
    ids = random.integers(0, 300, 12)
    cache.prefill(0, ids[:-1].tolist())
    step = cache.decode_step(ids[-1:], np.array([11]))
    np.testing.assert_allclose(step[0], model.logits(ids)[-1, first:end], atol=TOLERANCE, rtol=0)


def test_a_batch_gives_what_one_by_one_gives(model: LanguageModel, golden: dict[str, Any]) -> None:
    prompts = [golden["prompts"][index % 3] for index in range(16)]
    together = generate(model, golden, prompts, seed=7)
    assert len({codes.tobytes() for codes in together}) > 10, "sixteen draws should differ"
    smaller_batch = generate(model, golden, prompts, seed=7, batch_size=3)
    np.testing.assert_array_equal(together, smaller_batch)
    alone = generate(model, golden, prompts[:2], seed=7, batch_size=1)
    np.testing.assert_array_equal(together[:2], alone)


def test_guidance_of_one_is_the_conditional_model_alone(model: LanguageModel, golden: dict[str, Any]) -> None:
    prompts = golden["prompts"][:1]
    one = generate(model, golden, prompts, guidance_scale=1.0, sampling=SamplingOptions(greedy=True))
    two_rows = model.visual_generator(1, 60, SamplingOptions(greedy=True), 1.0000001)
    two_rows.add(VisualRequest("0", prompts[0], golden["negative"], 3, 4, 0))
    while two_rows.running:
        finished = two_rows.step()
    np.testing.assert_array_equal(one[0], finished[0].codes_THW())


def test_seeds_and_guidance_matter(model: LanguageModel, golden: dict[str, Any]) -> None:
    prompts = golden["prompts"][:1]
    base = generate(model, golden, prompts, seed=1)
    assert not np.array_equal(base, generate(model, golden, prompts, seed=2))
    assert not np.array_equal(
        generate(model, golden, prompts, sampling=SamplingOptions(greedy=True)),
        generate(model, golden, prompts, sampling=SamplingOptions(greedy=True), guidance_scale=9.0),
    )


@pytest.mark.parametrize("written", [1, 4, 5, 11])
def test_an_image_goes_on_where_it_was_left(model: LanguageModel, golden: dict[str, Any], written: int) -> None:
    generator = model.visual_generator(1, 60, TOP_50, 3.0)
    request = VisualRequest("key", golden["prompts"][0], golden["negative"], 3, 4, 5)
    codes = []
    for begun in (request, replace(request, codes=())):
        generator.add(begun)
        while generator.running:
            finished = generator.step()
        codes.append(finished[0].codes)
    assert codes[0] == codes[1]
    generator.add(replace(request, codes=tuple(codes[0][:written])))
    while generator.running:
        finished = generator.step()
    assert finished[0].codes == codes[0]


def finished_codes(generator: VisualGenerator, request: VisualRequest) -> list[int]:
    generator.add(request)
    while generator.running:
        finished = generator.step()
    return finished[0].codes


@pytest.mark.parametrize("written", [0, 1, 11, 12, 20])
def test_a_clip_goes_on_where_it_was_left(model: LanguageModel, golden: dict[str, Any], written: int) -> None:
    """Its first frame is given, two are written; the codes of an earlier run are in the second or the third."""
    generator, prefix = model.visual_generator(1, 70, TOP_50, 3.0), tuple(range(12))
    clip = VisualRequest(
        "key", golden["prompts"][0], golden["negative"], 3, 4, 5, frames=3, grid_format=UNIVLA, prefix_codes=prefix
    )
    unbroken = finished_codes(generator, clip)
    assert len(unbroken) == 24
    left = replace(clip, codes=tuple(unbroken[:written]))
    assert finished_codes(generator, left) == unbroken
    prefilled = finished_codes(generator, replace(left, is_replayed=False))
    assert (len(prefilled), prefilled[:written]) == (24, unbroken[:written])
    assert unbroken != finished_codes(generator, replace(clip, prefix_codes=prefix[::-1])), "the prefix must matter"


def test_a_prefix_is_continued_as_if_it_had_been_generated(model: LanguageModel, golden: dict[str, Any]) -> None:
    """Greedy decoding: the first frame of a video, given as its prefix, leads to the same video."""
    prompts = golden["prompts"][:1]
    common = {"sampling": SamplingOptions(greedy=True), "grid_format": ROWS, "height": 2, "frames": 3}
    whole = generate(model, golden, prompts, **common)
    assert (whole.dtype, whole.shape) == (np.uint16, (1, 3, 2, 4))
    prefix = whole[0, 0].reshape(-1).tolist()
    np.testing.assert_array_equal(generate(model, golden, prompts, prefix_codes=prefix, **common), whole)


def test_logits_that_are_not_finite_stop_with_key_and_place(
    model: LanguageModel, golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = model.visual_generator(1, 60, SamplingOptions(), 1.0)
    generator.add(VisualRequest("the key", golden["prompts"][0], None, 3, 4, 0))
    generator.step()
    broken = np.full((1, model.layout.codebook_size), np.nan, np.float32)
    monkeypatch.setattr(generator.model, "decode_step", lambda tokens, positions: broken)
    with pytest.raises(JobStoppedError, match=r"the key.*offset 1"):
        generator.step()


def test_bad_calls_are_refused(model: LanguageModel, golden: dict[str, Any], golden_lm: Path) -> None:
    for prompt in ([303, 108], []):
        with pytest.raises(UsageError, match="IMG"):
            generate(model, golden, [prompt])
    with pytest.raises(UsageError, match="positions"):
        generate(model, golden, golden["prompts"][:1], height=64, width=64)
    with pytest.raises(ShapeError, match="820"):
        model.logits([820])
    with pytest.raises(CheckpointError, match="819"):
        LanguageModel.from_pretrained(golden_lm, layout={**golden["layout"], "codebook_size": 513})
    with pytest.raises(CheckpointError, match="layout"):
        LanguageModel.from_pretrained(golden_lm)
    with pytest.raises(CheckpointError, match="text tokenizer"):
        model.encode_text("a red apple")


@pytest.fixture(scope="module")
def text_model(small_lm: Path) -> LanguageModel:
    """A model with a text tokenizer."""
    return LanguageModel.from_pretrained(small_lm)


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


def test_texts_become_videos_that_continue_their_prefixes(text_model: LanguageModel) -> None:
    request = VideoRequest(prompts=["a red apple", "a green pear"], frames=3, height=2, width=3)
    whole = text_model.generate_videos(request)
    assert (whole.dtype, whole.shape) == (np.uint16, (2, 3, 2, 3))
    continued = text_model.generate_videos(replace(request, prefix_codes_BTHW=whole[:, :1]))
    np.testing.assert_array_equal(continued[:, 0], whole[:, 0])
    for shape in ((2, 3, 2, 3), (1, 1, 2, 3), (2, 1, 3, 2), (2, 2, 3)):
        with pytest.raises(ShapeError, match=r"prefix_codes_BTHW|rank"):
            text_model.generate_videos(replace(request, prefix_codes_BTHW=np.zeros(shape, np.uint16)))


def test_requests_are_checked() -> None:
    for bad in ({"height": 0}, {"batch_size": 0}, {"guidance_scale": -1.0}, {"prompts": "a red apple"}):
        with pytest.raises(UsageError, match="expected"):
            ImageRequest(**{"prompts": ["a red apple"], "height": 2, "width": 3, **bad})
    with pytest.raises(UsageError, match="frames"):
        VideoRequest(prompts=[], frames=0, height=2, width=3)


def test_text_is_encoded_and_decoded(text_model: LanguageModel) -> None:
    ids = text_model.encode_text("a red apple <|image start|>")
    assert not set(ids) & set(text_model.layout.control_ids.values())
    assert text_model.decode_text(ids) == "a red apple <|image start|>"


def test_config_reads_nested_keys_and_refuses_what_is_not_built(golden_lm: Path) -> None:
    raw = json.loads((golden_lm / "config.json").read_text())
    assert DecoderConfig.from_dict({"text_config": raw}) == DecoderConfig.from_dict(raw)
    with pytest.raises(CheckpointError, match="rope_scaling"):
        DecoderConfig.from_dict({**raw, "rope_scaling": {"type": "linear"}})
    with pytest.raises(CheckpointError, match="hidden_size"):
        DecoderConfig.from_dict({name: value for name, value in raw.items() if name != "hidden_size"})
