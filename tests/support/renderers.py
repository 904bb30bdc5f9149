"""Renderers over small vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lm_stage.text.prompting import PLAIN, Prompting
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.tokenizer import HuggingFaceTokenizer
from lm_stage.text.training import train_text_tokenizer


def small_renderer(
    texts: Iterable[str], codebook_size: int, text_ids: int = 280, prompting: Prompting = PLAIN
) -> SequenceRenderer:
    """Train a vocabulary on the texts."""
    vocabulary = train_text_tokenizer(texts, text_ids, codebook_size, prompting.roles)
    tokenizer = HuggingFaceTokenizer(json.loads(vocabulary.tokenizer_json), "", "here")
    return SequenceRenderer(tokenizer, vocabulary.layout, prompting=prompting)
