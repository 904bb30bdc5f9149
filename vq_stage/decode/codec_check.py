"""Checks that a dataset is decoded with the tokenizer that its codes belong to."""

from __future__ import annotations

from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.errors import ConfigMismatchError
from vq_stage.model.codec import read_codec


def check_codec(dataset: Dataset, vision_tokenizer: str | Path) -> None:
    """Raise ConfigMismatchError, before a model loads, if the codes were made by another tokenizer.

    Generated codes have no fingerprint if the language model's checkpoint names none; then the codebook sizes are
    compared.
    """
    expected, found = dataset.plan().settings.codec, read_codec(vision_tokenizer)
    if expected.fingerprint is None and not expected.is_compatible(found):
        raise ConfigMismatchError(
            f"{vision_tokenizer}: codebook of {found.codebook_size} entries, expected {expected.codebook_size} for the"
            f" codes of {dataset.root}; give their tokenizer by --vision-tokenizer"
        )
    if not expected.is_compatible(found):
        raise ConfigMismatchError(
            f"{vision_tokenizer}: tokenizer {found.short_fingerprint}, expected {expected.short_fingerprint} for the"
            f" codes of {dataset.root}; give that tokenizer by --vision-tokenizer"
        )
