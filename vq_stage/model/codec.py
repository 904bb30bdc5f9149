"""The codec of a tokenizer directory: what datasets of its codes record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shared.codec import Codec
from vq_stage.model.families import read_config
from vq_stage.model.weights import codec_fingerprint


def read_codec(directory: str | Path) -> Codec:
    """Return the codec of a tokenizer, with its fingerprint; does not import MindSpore. Raises CheckpointError."""
    return replace(read_factors(directory), fingerprint=codec_fingerprint(directory))


def read_factors(directory: str | Path) -> Codec:
    """Return the codec without its fingerprint, for which the weights would be read. Raises CheckpointError."""
    return read_config(directory).codec
