"""Judging logits, tokens and losses: substituted results."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.doctor import language
from pipelines.doctor.check import Setting, Verdict
from pipelines.doctor.expected import LOGIT_STEP, expected


def test_tokens_as_expected_pass() -> None:
    finding = language.judge_tokens(expected()["tokens"].reshape(-1), "float32", 12.5)
    assert (finding.verdict, finding.measured["equal_tokens"]) == (Verdict.PASSED, 64)
    assert finding.reason == "64 of 64 greedy tokens are as expected; 12.5 tokens/s for one image"


def test_a_token_may_differ_at_a_tie_only() -> None:
    lead = expected()["margins"]
    for place, verdict in ((int(lead.argmax()), Verdict.FAILED), (int(lead.argmin()), Verdict.PASSED)):
        tokens = expected()["tokens"].reshape(-1).copy()
        tokens[place] += 1
        finding = language.judge_tokens(tokens, "bfloat16", 1.0)
        assert (finding.verdict, finding.measured["equal_tokens"]) == (verdict, place)


def test_wrong_logits_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.repeat(expected()["logits"], LOGIT_STEP, axis=1)
    model = SimpleNamespace(logits=lambda token_ids: logits)
    monkeypatch.setattr(language, "load", lambda *settings: model)
    assert language.check_logits(Setting("cpu"), "float32").verdict is Verdict.PASSED
    logits[3, 0] = np.nan
    finding = language.check_logits(Setting("cpu"), "float32")
    assert (finding.verdict, finding.reason[:22]) == (Verdict.FAILED, "logits differ by inf o")


def test_the_margins_are_those_of_the_codes() -> None:
    token_ids = np.array([1, 11, 2, 10])
    logits = np.zeros((4, 14), np.float32)
    logits[0, 11], logits[2, 10], logits[2, 12], logits[2, 3] = 2.0, 5.0, 4.5, 9.0
    model = SimpleNamespace(layout=SimpleNamespace(first_visual_token=10, end_of_visual=13))
    assert language.margins(model, logits, token_ids).tolist() == [2.0, 0.5]
