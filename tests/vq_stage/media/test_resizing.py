"""Sizes and resized pixels equal those of the published image processor; areas are computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.codec import EMU3, EMU35
from shared.errors import DatasetError, RefusedInput, UsageError
from vq_stage.media.resizing import Preprocessing

MIN_PIXELS, MAX_PIXELS = 512 * 512, 1024 * 1024
sides = st.integers(8, 4000)


def smart_resize(height: int, width: int, factor: int = 8) -> tuple[int, int]:
    from transformers.models.emu3.image_processing_emu3 import smart_resize as published

    return published(height, width, factor=factor, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)


def is_allowed(height: int, width: int) -> bool:
    return max(height, width) <= 5 * min(height, width)


@settings(max_examples=500, deadline=None)
@given(sides, sides)
@example(8, 8)
@example(12, 20)
@example(512, 512)
@example(508, 516)
@example(1024, 1024)
@example(1028, 1020)
@example(800, 4000)
@example(8, 40)
def test_processor_rule_is_the_published_one(height: int, width: int) -> None:
    assume(is_allowed(height, width))
    assert Preprocessing("processor").target_size(height, width, EMU3) == smart_resize(height, width)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.sampled_from([8, 16, 32, 64]))
def test_processor_rule_with_coarser_steps(height: int, width: int, round_to: int) -> None:
    assume(is_allowed(height, width))
    assert Preprocessing("processor", round_to=round_to).target_size(height, width, EMU3) == smart_resize(
        height, width, round_to
    )


def noise(height: int, width: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("height", "width"), [(300, 500), (1100, 1300), (512, 640)])
def test_resized_pixels_are_the_published_ones(height: int, width: int) -> None:
    """After the normalization, which float32 rounds, is undone, no gray level differs."""
    from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

    image = noise(height, width, seed=height)
    processor = Emu3ImageProcessor(
        image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, spatial_factor=8
    )
    values = np.asarray(processor.preprocess(image, return_tensors="np")["pixel_values"])
    published = np.rint((values.reshape(values.shape[-3:]) * 0.5 + 0.5) * 255).astype(np.uint8).transpose(1, 2, 0)
    rule = Preprocessing("processor")
    resized = rule.resize(image, *rule.target_size(height, width, EMU3))
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, published)


@pytest.mark.parametrize(
    ("source", "area", "round_to", "expected"),
    [
        ((720, 720), 720 * 720, 8, (720, 720)),
        ((31, 31), 720 * 720, 8, (720, 720)),
        # 16:9 of 518 400 pixels is 540 × 960; 540 / 8 = 67.5 goes to the even 68
        ((1080, 1920), 720 * 720, 8, (544, 960)),
        # 4:3 is 831.38 × 623.54: 103.9 and 77.9 eighths
        ((4000, 3000), 720 * 720, 8, (832, 624)),
        # 540 / 64 = 8.4 and 960 / 64 = 15
        ((1080, 1920), 720 * 720, 64, (512, 960)),
        # 1:5 of 512² is 228.97 × 1144.87: 28.6 and 143.1 eighths
        ((100, 500), 512 * 512, 8, (232, 1144)),
        ((64, 64), 1024, 8, (32, 32)),
    ],
)
def test_area_rule_by_hand(source: tuple[int, int], area: int, round_to: int, expected: tuple[int, int]) -> None:
    assert Preprocessing("area", area, round_to).target_size(*source, EMU3) == expected


@pytest.mark.parametrize(
    ("source", "area", "round_to", "expected"),
    [
        ((1024, 1024), None, None, (1024, 1024)),
        ((32, 32), None, None, (1024, 1024)),
        # 5:3 of 1024² is 793 × 1321: 49.6 and 82.6 sixteenths
        ((600, 1000), None, None, (800, 1328)),
        # 3:4 of 518 400 is 831 × 623 (831.4 × 623.5): 51.9 and 38.9 sixteenths
        ((800, 600), 518_400, None, (832, 624)),
        ((600, 1000), None, 64, (768, 1344)),
    ],
)
def test_emu35_rule_by_hand(
    source: tuple[int, int], area: int | None, round_to: int | None, expected: tuple[int, int]
) -> None:
    assert Preprocessing("emu3.5", area, round_to).target_size(*source, EMU35) == expected


def exact_area_size(height: int, width: int, area: int) -> tuple[float, float]:
    scale = (area / (height * width)) ** 0.5
    return height * scale, width * scale


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(64 * 64, 1024 * 1024), st.sampled_from([8, 16, 64]))
def test_area_rule_keeps_steps_area_and_shape(height: int, width: int, area: int, round_to: int) -> None:
    assume(is_allowed(height, width))
    rule, exact_HW = Preprocessing("area", area, round_to), exact_area_size(height, width, area)
    if round(min(exact_HW) / round_to) == 0:
        with pytest.raises(RefusedInput, match="bad_size"):
            rule.target_size(height, width, EMU3)
        return
    size = rule.target_size(height, width, EMU3)
    assert all(side >= round_to and side % round_to == 0 for side in size)
    for side, exact in zip(size, exact_HW):
        assert abs(side - exact) <= round_to / 2 + 1e-6


def test_a_rotated_image_has_the_rotated_size() -> None:
    for rule in (Preprocessing("processor"), Preprocessing("area", 512 * 512)):
        assert rule.target_size(300, 700, EMU3) == rule.target_size(700, 300, EMU3)[::-1]


def test_none_keeps_the_size() -> None:
    rule = Preprocessing("none")
    image = noise(16, 24, seed=1)
    assert rule.target_size(16, 24, EMU3) == (16, 24)
    np.testing.assert_array_equal(rule.resize(image, 16, 24), np.asarray(image))


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 12), (17, 24), (65_536, 65_536)])
def test_none_refuses_sides_that_are_not_multiples_of_8(height: int, width: int) -> None:
    with pytest.raises(RefusedInput) as refused:
        Preprocessing("none").target_size(height, width, EMU3)
    assert refused.value.reason == "bad_size"
    assert str(height) in refused.value.detail


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"rule": "crop"}, "--resize"),
        ({"round_to": 0}, "--round-to"),
        ({"round_to": -8}, "--round-to"),
        ({"round_to": 12}, "--round-to"),
        ({"rule": "area", "area": 63}, "--area"),
        ({"rule": "area", "area": 1000, "round_to": 64}, "--area"),
        ({"rule": "none", "round_to": 16}, "--round-to"),
        ({"rule": "processor", "area": 4096}, "--area needs --resize area or emu3.5"),
        ({"rule": "none", "area": 4096}, "--area needs --resize area or emu3.5"),
    ],
)
def test_bad_settings_name_the_option(settings: dict[str, object], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Preprocessing(**settings).step(EMU3)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"round_to": 8}, {"round_to": 24}, {"rule": "area", "area": 255}])
def test_settings_that_do_not_suit_the_codec_are_refused(settings: dict[str, Any]) -> None:
    Preprocessing(**settings).step(EMU3)
    with pytest.raises(UsageError, match=r"--(round-to|area)"):
        Preprocessing(**settings).step(EMU35)


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.sampled_from([None, 32, 64]))
def test_a_code_of_16_pixels_gives_multiples_of_16(height: int, width: int, round_to: int | None) -> None:
    assume(is_allowed(height, width))
    assert Preprocessing(round_to=round_to).target_size(height, width, EMU35) == smart_resize(
        height, width, round_to or 16
    )
    step = round_to or 16
    assert all(side % step == 0 for side in Preprocessing("area", 1 << 20, round_to).target_size(height, width, EMU35))
    if height % 16 or width % 16:
        with pytest.raises(RefusedInput, match="multiples of 16"):
            Preprocessing("none").target_size(height, width, EMU35)


def test_the_default_step_is_recorded_as_a_number() -> None:
    assert Preprocessing().to_json(EMU3)["round_to"] == 8
    assert Preprocessing().to_json(EMU35)["round_to"] == 16


def test_recorded_settings_differ_between_rules() -> None:
    recorded = [
        Preprocessing("processor"),
        Preprocessing("processor", round_to=16),
        Preprocessing("area"),
        Preprocessing("area", 512 * 512),
        Preprocessing("emu3.5", 512 * 512),
        Preprocessing("none"),
    ]
    assert len({str(rule.to_json(EMU3)) for rule in recorded}) == len(recorded)
    assert Preprocessing("area").to_json(EMU3) == Preprocessing("area", 720 * 720).to_json(EMU3)


@pytest.mark.parametrize(
    "rule", [Preprocessing(), Preprocessing("area", round_to=16), Preprocessing("area", 4096), Preprocessing("none")]
)
def test_recorded_settings_are_read_back(rule: Preprocessing) -> None:
    restored = Preprocessing.from_json(rule.to_json(EMU3), "plan")
    assert restored.to_json(EMU3) == rule.to_json(EMU3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rule": "crop"}, "preprocessing: --resize 'crop'"),
        ({"round_to": "8"}, "preprocessing.round_to: expected an integer, got '8'"),
        ({"filter": "nearest"}, "preprocessing.filter: expected 'bicubic', got 'nearest'"),
        ({"crop": True}, "preprocessing.crop: expected None, got True"),
    ],
)
def test_recorded_settings_that_cannot_be_read_name_the_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(DatasetError, match=f"^plan: {named}"):
        Preprocessing.from_json({**Preprocessing().to_json(EMU3), **changes}, "plan")


def test_a_missing_recorded_setting_is_named() -> None:
    with pytest.raises(DatasetError, match=r"plan: preprocessing\.filter: expected 'bicubic', got None"):
        Preprocessing.from_json({"rule": "none", "round_to": 8, "transparency": "white"}, "plan")
