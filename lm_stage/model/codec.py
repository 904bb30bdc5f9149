"""The codec whose codes a model reads and writes, as its config.json records it.

    {"codec_fingerprint": "…", "codec_spatial_factor": 16, "codec_temporal_factor": 1}

Published checkpoints record none of it. Their factors are those of the vision tokenizer that is given, or else of the
published one with as many entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_stage.model.config import read_config, read_layout
from shared.codec import Codec
from shared.errors import CheckpointError, UsageError
from shared.tokens.layout import TokenLayout

NO_VIDEO_MESSAGE = "the model's vision tokenizer encodes images only; ask for the frames as images"
_FINGERPRINT = "codec_fingerprint"
_FACTORS = {"codec_spatial_factor": "spatial_factor", "codec_temporal_factor": "temporal_factor"}  # key -> field


def read_codec(directory: str | Path, layout: TokenLayout | None = None, given: Codec | None = None) -> Codec:
    """Return the codec of a model; its fingerprint is None if neither config.json nor `given` names it.

    `given` is the codec of the vision tokenizer that the user gives. Raises CheckpointError if it is another than the
    recorded one, or if what is recorded is no codec.
    """
    raw, size = read_config(directory), (layout or read_layout(directory)).codebook_size
    known = given or Codec.published(size)
    factors = {field: raw.get(key, getattr(known, field)) for key, field in _FACTORS.items()}
    try:
        recorded = Codec(raw.get(_FINGERPRINT), size, **factors)
    except UsageError as error:
        raise CheckpointError(f"{directory}: config.json: {error}") from error
    if given is None or recorded.fingerprint == given.fingerprint:
        return recorded
    if recorded.fingerprint:
        raise CheckpointError(
            f"{directory}: generates codes of vision tokenizer {recorded.short_fingerprint}, got"
            f" {given.short_fingerprint}; use the tokenizer that the model was trained with"
        )
    return Codec(given.fingerprint, size, **factors)


def codec_keys(codec: Codec) -> dict[str, Any]:
    """Return the keys of a config.json from which `read_codec` returns this codec; none that it would assume."""
    assumed = Codec.published(codec.codebook_size)
    factors = {key: getattr(codec, field) for key, field in _FACTORS.items()}
    changed = {key: value for key, value in factors.items() if value != getattr(assumed, _FACTORS[key])}
    return {_FINGERPRINT: codec.fingerprint, **changed}
