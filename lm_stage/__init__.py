"""The language stage: tokens to tokens. `LanguageModel` is the Python entry point; each job has a package."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import shared  # noqa: F401  quiets MindSpore before its first import

if TYPE_CHECKING:
    from lm_stage.inference.options import SamplingOptions
    from lm_stage.inference.requests import ImageRequest, VideoRequest
    from lm_stage.language_model import LanguageModel

__all__ = ["ImageRequest", "LanguageModel", "SamplingOptions", "VideoRequest"]

_MODULES = {
    "ImageRequest": "lm_stage.inference.requests",
    "LanguageModel": "lm_stage.language_model",
    "SamplingOptions": "lm_stage.inference.options",
    "VideoRequest": "lm_stage.inference.requests",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the rest of the package does not need MindSpore."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
