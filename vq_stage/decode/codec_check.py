"""Checks, before a model loads, that a vision tokenizer is the one that made a dataset's codes."""

from __future__ import annotations

from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.errors import ConfigMismatchError
from vq_stage.model.config import VQConfig
from vq_stage.model.weights import codec_fingerprint


def check_codec(dataset: Dataset, vision_tokenizer: str | Path) -> None:
    """Raises ConfigMismatchError if the codes were made by another tokenizer.

    Generated codes have no fingerprint if the language model's checkpoint names none; then the codebook sizes are
    compared.
    """
    codec = dataset.plan().settings.codec
    expected, size = codec.fingerprint, VQConfig.from_directory(vision_tokenizer).codebook_size
    if expected is None and codec.codebook_size != size:
        raise ConfigMismatchError(
            f"{vision_tokenizer}: codebook of {size} entries, expected {codec.codebook_size} for the codes of"
            f" {dataset.root}; give their tokenizer by --vision-tokenizer"
        )
    found = codec_fingerprint(vision_tokenizer)
    if expected is not None and found != expected:
        raise ConfigMismatchError(
            f"{vision_tokenizer}: tokenizer {found[:12]}, expected {expected[:12]} for the codes of {dataset.root};"
            " give that tokenizer by --vision-tokenizer"
        )
