"""Language stage: tokens to tokens. `LanguageModel` is the Python entry point; jobs are in their own modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shared  # noqa: F401  quiets MindSpore before its first import

if TYPE_CHECKING:
    from lm_stage.language_model import LanguageModel

__all__ = ["LanguageModel"]


def __getattr__(name: str) -> Any:
    if name == "LanguageModel":  # imported on first use: the rest of the package needs no MindSpore
        from lm_stage.language_model import LanguageModel

        return LanguageModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
