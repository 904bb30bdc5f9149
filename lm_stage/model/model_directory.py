"""A model on disk as jobs see it before it is loaded: config, token layout, text tokenizer, fingerprints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_stage.model.config import DecoderConfig, read_config, read_layout
from lm_stage.model.weights import check_weights, model_fingerprint
from lm_stage.text.tokenizer import TextTokenizer, load_text_tokenizer
from shared.codec import Codec
from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.tokens.layout import TokenLayout

if TYPE_CHECKING:
    from lm_stage.language_model import LanguageModel

EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "emu3-tiny"


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A checkpoint directory with a text tokenizer; needs no MindSpore until `load`."""

    path: Path
    config: DecoderConfig
    layout: TokenLayout
    text_tokenizer: TextTokenizer
    codec_fingerprint: str | None

    @classmethod
    def open(cls, directory: str | Path, layout: str | None = None, codec: str | None = None) -> ModelDirectory:
        """Reads and compares config, layout and vocabulary.

        `layout` is a JSON file with the ids by name, for a checkpoint that does not carry them; `codec` the
        fingerprint of its vision tokenizer. Raises CheckpointError if they do not fit each other.
        """
        directory = local_directory(directory)
        config = DecoderConfig.from_directory(directory)
        tokenizer = load_text_tokenizer(directory)
        chosen = _layout_from_file(Path(layout)) if layout else read_layout(directory)
        chosen.check_vocabulary(config.vocab_size, str(directory))
        check_weights(directory, config)
        if tokenizer.layout != chosen:
            raise CheckpointError(
                f"{directory}: config.json and the text tokenizer name different token layouts:\n"
                f"  {chosen.to_dict()}\n  {tokenizer.layout.to_dict()}"
            )
        recorded = read_config(directory).get("codec_fingerprint")
        if not isinstance(recorded, (str, type(None))):
            raise CheckpointError(f"{directory}: config.json: codec_fingerprint {recorded!r}: expected hex digits")
        if codec and recorded and codec != recorded:
            raise CheckpointError(
                f"{directory}: writes codes of tokenizer {recorded[:12]}, the one given is {codec[:12]};"
                " give the tokenizer this model was trained with"
            )
        return cls(directory, config, chosen, tokenizer, recorded or codec)

    def codec(self) -> Codec:
        """Return the codec whose codes the model reads and writes; its fingerprint is None if unknown."""
        return Codec(self.codec_fingerprint, self.layout.codebook_size)

    def recorded(self) -> dict[str, Any]:
        """What a dataset records of the model."""
        return {
            "model": model_fingerprint(self.path),
            "text": self.text_tokenizer.fingerprint,
            "layout": self.layout.to_dict(),
        }

    def load(self, device: str, dtype: str | None, backend: str) -> LanguageModel:
        """Raises CheckpointError if weights and config do not fit."""
        from lm_stage.language_model import LanguageModel

        return LanguageModel.from_pretrained(self.path, device, dtype, self.layout, backend)


def _layout_from_file(path: Path) -> TokenLayout:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a token layout as JSON: {error}") from error
    return TokenLayout.from_mapping(values, str(path))
