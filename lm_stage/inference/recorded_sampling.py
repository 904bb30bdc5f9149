"""What is recorded of sampling: the options, and the scheme of the noise.

Earlier versions recorded no scheme: they drew one uniform number for each token. What they began cannot be
continued with other noise, but what they finished remains valid. Greedy sampling needs no noise and records no scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lm_stage.inference.options import SamplingOptions
from shared.errors import ConfigMismatchError

NOISE_SCHEME = "gumbel"


def sampling_to_json(options: SamplingOptions, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON form of sampling, with a scheme where `recorded` sampling has one, so that they compare."""
    has_scheme = "noise" in recorded if recorded else not options.greedy
    return {**asdict(options), **({"noise": NOISE_SCHEME} if has_scheme else {})}


def check_noise(sampling: Mapping[str, Any], where: object) -> None:
    """Raise ConfigMismatchError if what is recorded was sampled with the noise of an earlier version.

    Called before anything is added to what is recorded.
    """
    if not sampling["greedy"] and "noise" not in sampling:
        raise ConfigMismatchError(
            f"{where}: was created by an earlier version, which sampled with other random numbers; finish it with that"
            " version, or write a new one"
        )
