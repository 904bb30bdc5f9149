"""Opens the dataset whose images and videos go into prompts and questions."""

from __future__ import annotations

from lm_stage.model.model_directory import ModelDirectory
from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.errors import ConfigMismatchError


def open_coded_images(path: str | None, model: ModelDirectory) -> KeyReader | None:
    """Open a dataset by key, if one is given.

    Raises ConfigMismatchError if its codes belong to another vision tokenizer than the model's.
    """
    if path is None:
        return None
    index = KeyReader(Dataset.open(path))
    found, expected = index.dataset.plan().settings.codec, model.codec
    if not found.is_compatible(expected):
        raise ConfigMismatchError(
            f"{path}: {_described(found)}, but {model.path} was trained on {_described(expected)}; encode the images"
            " with the model's tokenizer"
        )
    return index


def _described(codec: Codec) -> str:
    return f"{codec.codebook_size} codes of tokenizer {codec.short_fingerprint}"
