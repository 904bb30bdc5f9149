"""A model on disk, as jobs use it before they load it: config, token layout, text tokenizer, fingerprints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_stage.model.config import DecoderConfig, read_config, read_layout
from lm_stage.model.weights import check_weights, model_fingerprint
from lm_stage.text.tokenizer import TextTokenizer, load_text_tokenizer
from shared.codec import Codec
from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.tokens.layout import TokenLayout


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A checkpoint directory with a text tokenizer; needs no MindSpore."""

    path: Path
    config: DecoderConfig
    layout: TokenLayout
    text_tokenizer: TextTokenizer
    codec_fingerprint: str | None

    @classmethod
    def open(cls, directory: str | Path, layout: str | None = None, codec: str | None = None) -> ModelDirectory:
        """Read a directory and check that config, weights, token layout and vocabulary match.

        `layout` is a JSON file with the ids by name, for a checkpoint that does not contain them; `codec` is the
        fingerprint of its vision tokenizer. Raises CheckpointError if anything is missing or does not match.
        """
        path = local_directory(directory)
        config = DecoderConfig.from_directory(path)
        tokenizer = load_text_tokenizer(path)
        chosen = _layout_from_file(Path(layout)) if layout else read_layout(path)
        chosen.check_vocabulary(config.vocab_size, str(path))
        check_weights(path, config)
        if tokenizer.layout != chosen:
            raise CheckpointError(
                f"{path}: config.json and the text tokenizer have different token layouts:\n"
                f"  {chosen.to_dict()}\n  {tokenizer.layout.to_dict()}"
            )
        return cls(path, config, chosen, tokenizer, _codec_fingerprint(path, codec))

    def codec(self) -> Codec:
        """Return the codec whose codes the model reads and writes; its fingerprint is None if unknown."""
        return Codec(self.codec_fingerprint, self.layout.codebook_size)

    def recorded(self) -> dict[str, Any]:
        """Return what a dataset records about the model."""
        return {
            "model": model_fingerprint(self.path),
            "text": self.text_tokenizer.fingerprint,
            "layout": self.layout.to_dict(),
        }


def _codec_fingerprint(path: Path, given: str | None) -> str | None:
    """Return the recorded fingerprint, or `given` if there is none. Raises CheckpointError if they differ."""
    recorded = read_config(path).get("codec_fingerprint")
    if not isinstance(recorded, str | None):
        raise CheckpointError(f"{path}: config.json: codec_fingerprint {recorded!r}: expected hex digits")
    if given and recorded and given != recorded:
        raise CheckpointError(
            f"{path}: generates codes of vision tokenizer {recorded[:12]}, got {given[:12]}; use the tokenizer that"
            " the model was trained with"
        )
    return recorded or given


def _layout_from_file(path: Path) -> TokenLayout:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a token layout as JSON: {error}") from error
    return TokenLayout.from_mapping(values, str(path))
