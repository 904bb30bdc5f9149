"""Judging codes and pixels: substituted results."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.doctor import vision
from pipelines.doctor.check import Setting, Verdict
from pipelines.doctor.expected import expected

HERE = Setting("cpu")


def substitute(monkeypatch: pytest.MonkeyPatch, codes: np.ndarray, pixels: np.ndarray) -> None:
    tokenizer = SimpleNamespace(encode_images=lambda images: codes, decode_images=lambda codes: pixels)
    monkeypatch.setattr(vision, "load", lambda *settings: tokenizer)


def test_expected_codes_pass_with_their_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    substitute(monkeypatch, expected()["codes"], expected()["pixels"])
    finding = vision.check_codes(HERE, "float32")
    assert (finding.verdict, finding.measured["equal_share"]) == (Verdict.PASSED, 1)
    assert finding.measured["images_per_s"] > 0
    assert vision.check_pixels(HERE, "float32").verdict is Verdict.PASSED


def test_wrong_codes_and_pixels_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = expected()["canary"].copy()
    codes[0, 0, :2] ^= 1
    substitute(monkeypatch, codes, 255 - expected()["pixels"])
    finding = vision.check_canary(HERE, "float32")
    assert finding.verdict is Verdict.FAILED
    assert finding.reason == "62 of 64 codes (96.9%) are as expected, at least 99% are required"
    assert "do not encode" in finding.next_step
    assert vision.check_canary(HERE, "float16").verdict is Verdict.PASSED
    assert vision.check_pixels(HERE, "float32").verdict is Verdict.FAILED


def test_results_of_another_shape_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    substitute(monkeypatch, expected()["canary"][:, :4], expected()["pixels"][:, :4])
    assert vision.check_canary(HERE, "bfloat16").measured["equal_share"] == 0
    assert vision.check_pixels(HERE, "bfloat16").verdict is Verdict.FAILED
