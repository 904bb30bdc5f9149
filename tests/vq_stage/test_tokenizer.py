"""The tokenizer compared with golden data from the upstream code, and with itself in other batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.errors import DeviceError, ShapeError, UsageError
from vq_stage import VisionTokenizer
from vq_stage.tokenizer import to_uint8

Expected = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tokenizer(golden_vq: Path) -> VisionTokenizer:
    return VisionTokenizer.from_pretrained(golden_vq)


def test_image_codes_equal_upstream(tokenizer: VisionTokenizer, golden_vq_expected: Expected) -> None:
    codes = tokenizer.encode_images(golden_vq_expected["images"])
    assert codes.dtype == np.uint16
    np.testing.assert_array_equal(codes, golden_vq_expected["image_codes"])


def test_restored_images_within_one_gray_level(tokenizer: VisionTokenizer, golden_vq_expected: Expected) -> None:
    expected = to_uint8(golden_vq_expected["image_recon"].astype(np.float32).transpose(0, 2, 3, 1))
    restored = tokenizer.decode_images(golden_vq_expected["image_codes"])
    assert restored.dtype == np.uint8
    assert np.abs(restored.astype(int) - expected).max() <= 1


def test_clips_equal_upstream(tokenizer: VisionTokenizer, golden_vq_expected: Expected) -> None:
    codes = tokenizer.encode_video(golden_vq_expected["video"])
    np.testing.assert_array_equal(codes, golden_vq_expected["video_codes"][:, 0])
    recon = golden_vq_expected["video_recon"].astype(np.float32).reshape(-1, 3, 64, 48).transpose(0, 2, 3, 1)
    assert np.abs(tokenizer.decode_video(codes).astype(int) - to_uint8(recon)).max() <= 1


def test_a_clip_of_equal_frames_equals_the_image(tokenizer: VisionTokenizer, golden_vq_expected: Expected) -> None:
    """The single-frame path computes what four equal frames give."""
    image = golden_vq_expected["images"][:1]
    np.testing.assert_array_equal(tokenizer.encode_video(image.repeat(4, axis=0)), tokenizer.encode_images(image))
    codes = golden_vq_expected["image_codes"][:1]
    first_frame = tokenizer.decode_video(codes)[:1]
    assert np.abs(first_frame.astype(int) - tokenizer.decode_images(codes)).max() <= 1


def test_a_batch_equals_its_images_one_by_one(tokenizer: VisionTokenizer, golden_vq_expected: Expected) -> None:
    images = golden_vq_expected["images"][:, :32, :24]
    together = tokenizer.encode_images(np.concatenate([images, images[::-1]]))
    alone = np.concatenate([tokenizer.encode_images(image[None]) for image in images])
    np.testing.assert_array_equal(together, np.concatenate([alone, alone[::-1]]))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 20, 16, 3), np.uint8), "multiples of 8, got 20×16"),
        (np.zeros((1, 16, 16, 3), np.float32), "expected uint8"),
        (np.zeros((16, 16, 3), np.uint8), "expected uint8"),
        (np.zeros((1, 0, 16, 3), np.uint8), "multiples of 8"),
    ],
)
def test_bad_pixels_are_refused(tokenizer: VisionTokenizer, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        tokenizer.encode_images(pixels)


def test_bad_codes_and_frames_are_refused(tokenizer: VisionTokenizer) -> None:
    with pytest.raises(ShapeError, match=r"\[0, 512\), got 0 to 512"):
        tokenizer.decode_images(np.array([[[0, 512]]]))
    with pytest.raises(ShapeError, match="expected integers"):
        tokenizer.decode_images(np.zeros((1, 2, 2)))
    with pytest.raises(ShapeError, match="positive multiple of 4, got 3"):
        tokenizer.encode_video(np.zeros((3, 16, 16, 3), np.uint8))


def test_impossible_devices_are_refused(golden_vq: Path) -> None:
    with pytest.raises(DeviceError, match="no NPU found"):
        VisionTokenizer.from_pretrained(golden_vq, device="ascend")
    with pytest.raises(DeviceError, match="expected float32"):
        VisionTokenizer.from_pretrained(golden_vq, device="cpu", dtype="float16")


def test_an_image_tokenizer_refuses_videos_and_other_sides(golden_ibq: Path) -> None:
    tokenizer = VisionTokenizer.from_pretrained(golden_ibq)
    assert (tokenizer.spatial_factor, tokenizer.temporal_factor) == (4, 1)
    with pytest.raises(UsageError, match="save the frames of videos as images"):
        tokenizer.encode_video(np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match="images only"):
        tokenizer.decode_video(np.zeros((1, 4, 4), np.uint32))
    with pytest.raises(ShapeError, match="multiples of 4, got 18×16"):
        tokenizer.encode_images(np.zeros((1, 18, 16, 3), np.uint8))
    with pytest.raises(ShapeError, match=r"\[0, 70000\), got 0 to 70000"):
        tokenizer.decode_images(np.array([[[0, 70000]]]))


def test_a_backend_without_the_network_is_refused(golden_ibq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_stage.tokenizer.check_vision_backend", lambda *_: None)  # it refuses a CPU
    with pytest.raises(UsageError, match="--backend mindone has no network of this family"):
        VisionTokenizer.from_pretrained(golden_ibq, backend="mindone")
