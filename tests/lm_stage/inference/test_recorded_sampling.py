"""The scheme of the noise is recorded, and what an earlier scheme began is not continued."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.recorded_sampling import check_noise, sampling_to_json
from lm_stage.text.prompting import EMU3
from shared.errors import ConfigMismatchError

OPTIONS = {"temperature": 1.0, "top_k": 2048, "top_p": 1.0, "greedy": False}
SAMPLED = SamplingOptions().resolved(EMU3.codes)
GREEDY = replace(SAMPLED, greedy=True)


def test_the_scheme_is_recorded_where_noise_is_used() -> None:
    assert sampling_to_json(SAMPLED) == {**OPTIONS, "noise": "gumbel"}
    assert sampling_to_json(SAMPLED, {**OPTIONS, "noise": "other"}) == {**OPTIONS, "noise": "gumbel"}
    assert sampling_to_json(GREEDY) == {**OPTIONS, "greedy": True}
    assert sampling_to_json(SAMPLED, OPTIONS) == OPTIONS
    greedy, noise = {**OPTIONS, "greedy": True}, {"noise": "gumbel"}
    assert sampling_to_json(SAMPLED, greedy) == OPTIONS
    assert sampling_to_json(GREEDY, {**OPTIONS, **noise}) == {**greedy, **noise}


def test_what_an_earlier_version_sampled_is_not_continued() -> None:
    for continued in ({**OPTIONS, "noise": "gumbel"}, {**OPTIONS, "greedy": True}):
        check_noise(continued, "tokens")
    with pytest.raises(ConfigMismatchError, match=r"tokens: .*finish it with that version, or write a new one"):
        check_noise(OPTIONS, "tokens")
