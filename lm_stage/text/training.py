"""Trains the text vocabulary of a small model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_stage.text.tokenizer import SPLIT_PATTERN
from shared.tokens.layout import OPTIONAL_SURFACES, SURFACES, TokenLayout

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTROL_ROLES = ("pad", "bos", "eos", "eol", "eof", "img", "boi", "eoi")  # in the order of their ids


@dataclass(frozen=True, slots=True)
class TrainedVocabulary:
    """The content of a `tokenizer.json`, its token layout, and the number of ids."""

    tokenizer_json: str
    layout: TokenLayout
    vocab_size: int


def train_text_tokenizer(
    texts: Iterable[str], text_ids: int, codebook_size: int, roles: Sequence[str] = ()
) -> TrainedVocabulary:
    """Train a byte-level BPE vocabulary: at most `text_ids` text ids, then the control and visual tokens.

    `roles` are optional roles of control tokens that the vocabulary has too. Every byte has a token, so every text can
    be encoded; every digit is a token of its own, as in Emu3.
    """
    tokenizer = _train_bpe(texts, text_ids)
    first = tokenizer.get_vocab_size()
    surfaces = [(SURFACES | OPTIONAL_SURFACES)[role] for role in (*CONTROL_ROLES, *roles)]
    surfaces += [f"<|visual token {code:06d}|>" for code in range(codebook_size)]
    described = json.loads(tokenizer.to_str())
    flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    described["added_tokens"] = [{"id": first + i, "content": surface, **flags} for i, surface in enumerate(surfaces)]
    ids = {surface: first + i for i, surface in enumerate(surfaces)}
    layout = TokenLayout.from_surfaces(ids, "trained vocabulary", with_optional=True)
    return TrainedVocabulary(json.dumps(described, ensure_ascii=False), layout, first + len(surfaces))


def _train_bpe(texts: Iterable[str], text_ids: int) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=text_ids, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
