"""A model on disk, as jobs use it before they load it: config, token layout, text tokenizer, fingerprints.

`model_path` explains how to correct what people give in place of a model directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_stage.model.checksums import CHECKSUMS_FILE, check_files
from lm_stage.model.codec import read_codec
from lm_stage.model.config import DecoderConfig, read_layout
from lm_stage.model.prompting_choice import choose_prompting, layout_from_file
from lm_stage.model.weights import check_weights, model_fingerprint
from lm_stage.text.prompting import AUTO, PLAIN, Prompting
from lm_stage.text.tokenizer import TextTokenizer, load_text_tokenizer
from shared.codec import Codec
from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.tokens.layout import TokenLayout

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_path(location: str | Path, verify: bool = True) -> Path:
    """Return the local directory of a model, whose files match their checksums if it has any, unless not to `verify`.

    Raises CheckpointError for anything else, with the path or the command that is probably meant.
    """
    path = local_directory(location)
    if not path.is_dir():
        raise CheckpointError(f"{location}: {_hint_for_missing(str(location), path)}")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{location}: expected a model with a config.json{_hint_for_directory(path)}")
    if pointers := [one.name for one in sorted(path.iterdir()) if _is_lfs_pointer(one)]:
        raise CheckpointError(
            f"{location}: {', '.join(pointers[:4])}: Git LFS pointers in place of the files; run `git lfs pull` there"
        )
    if verify:
        _verify(path)
    return path


def _verify(path: Path) -> None:
    """Raise CheckpointError if a file does not match its checksum."""
    try:
        check_files(path, may_be_missing=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; use another copy or checkpoint, or remove {CHECKSUMS_FILE} if you changed the files yourself"
        ) from error


def _hint_for_missing(location: str, path: Path) -> str:
    """Say what is wrong with a location that is not a directory."""
    if path.is_file():
        return f"expected the directory of a model, got a file; give {path.parent}"
    if _HUB_NAME.fullmatch(location):
        return (
            "no such directory; models are not downloaded: if this is a name on the Hugging Face hub, run"
            f" `hf download {location} --local-dir {path.name}` and give {path.name}"
        )
    return "no such directory; expected a model with config.json, safetensors and a text tokenizer"


def _hint_for_directory(path: Path) -> str:
    """Return the rest of a sentence about a directory without a config.json."""
    if (path / "plan.arrow").exists():
        return ", got a dataset"
    candidates = [path / "model", *sorted(path.glob("checkpoints/step-*"), reverse=True)]
    candidates += sorted(path.glob("step-*"), reverse=True)  # the checkpoints of a run
    if (path / "adapter_config.json").is_file():
        candidates = [parent / "model" for parent in (path.parent, path.parent.parent)]
    found = next((one for one in candidates if (one / "config.json").is_file()), None)
    advice = f"; give {found}" if found else ""
    if (path / "adapter_config.json").is_file():
        return f", got an adapter{advice or '; merge it into its base model first'}"
    if (path / "options.json").is_file():
        return f", got the directory of a run{advice or ', which has no model yet'}"
    if not found and (inner := sorted(one.parent for one in path.glob("*/config.json"))):
        return f"; did you mean {', '.join(map(str, inner[:4]))}?"
    return advice


def _is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what a clone without Git LFS has in place of a large file."""
    if not path.is_file() or path.stat().st_size > 1024:
        return False
    return path.read_bytes().startswith(LFS_POINTER)


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A checkpoint directory with a text tokenizer; needs no MindSpore.

    `codec` is the one whose codes the model reads and writes; its fingerprint is None if unknown.
    """

    path: Path
    config: DecoderConfig
    layout: TokenLayout
    text_tokenizer: TextTokenizer
    codec: Codec
    prompting: Prompting = PLAIN

    @classmethod
    def open(
        cls,
        directory: str | Path,
        layout: str | None = None,
        codec: Codec | None = None,
        prompting: str = AUTO,
        verify: bool = True,
    ) -> ModelDirectory:
        """Read a directory and check that config, weights, token layout and vocabulary match.

        `layout` is a JSON file with the ids by name, for a checkpoint that does not contain them; `codec` is that of
        the vision tokenizer, for one that does not record it; `prompting` is the name of one, or auto for that of the
        model. Without `verify`, which takes time, checksums are not compared. Raises CheckpointError if anything is
        missing or does not match.
        """
        path = model_path(directory, verify)
        config = DecoderConfig.from_directory(path)
        tokenizer = load_text_tokenizer(path)
        chosen = layout_from_file(Path(layout)) if layout else read_layout(path)
        chosen.check_vocabulary(config.vocab_size, str(path))
        check_weights(path, config)
        if not tokenizer.layout.agrees_with(chosen):
            raise CheckpointError(
                f"{path}: config.json and the text tokenizer have different token layouts:\n"
                f"  {chosen.to_dict()}\n  {tokenizer.layout.to_dict()}"
            )
        prompts, chosen = choose_prompting(prompting, chosen, config.qk_norm, lambda: tokenizer.layout, path)
        return cls(path, config, chosen, tokenizer, read_codec(path, chosen, codec), prompts)

    def recorded(self) -> dict[str, Any]:
        """Return what a dataset records about the model."""
        return {
            "model": model_fingerprint(self.path),
            "text": self.text_tokenizer.fingerprint,
            "layout": self.layout.to_dict(),
        }
