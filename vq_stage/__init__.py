"""Pixels ⇄ codes: the vision tokenizer and the jobs that run it in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shared  # noqa: F401  sets the log level of MindSpore before its first import

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer as VisionTokenizer

__all__ = ["VisionTokenizer"]


def __getattr__(name: str) -> Any:
    """Import the tokenizer, and with it MindSpore, on first use."""
    if name == "VisionTokenizer":
        from vq_stage.tokenizer import VisionTokenizer

        return VisionTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
