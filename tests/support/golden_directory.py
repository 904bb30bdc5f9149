"""The golden decoder of Emu3.5 as a model directory, with a text vocabulary in which prompts are the golden ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lm_stage.text.prompting import EMU35
from shared.tokens.layout import OPTIONAL_SURFACES, SURFACES

CAPTIONS = ("first", "second")
DIGIT_IDS = {digit: 48 + number for number, digit in enumerate("0123456789")} | {"*": 42}


def write_golden_directory(golden: Path, directory: Path) -> Path:
    """Write the model of `golden` with a `tokenizer.json`; the prompts of CAPTIONS have the golden token ids.

    Each whole text of a prompt is replaced by words, one for each golden id. The tokens of sizes are as published: one
    for each digit.
    """
    expected = json.loads((golden / "expected.json").read_text())
    directory.mkdir(parents=True)
    shutil.copy(golden / "model.safetensors", directory)
    config = json.loads((golden / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "token_layout": expected["layout"]}))
    texts = {
        EMU35.text_to_image.question_text(caption): ids[1:-1] for caption, ids in zip(CAPTIONS, expected["prompts"])
    }
    texts[EMU35.unconditional.question_text("")] = expected["unconditional"][1:-1]
    (directory / "tokenizer.json").write_text(json.dumps(_tokenizer(texts, expected["layout"])))
    return directory


def _tokenizer(texts: dict[str, list[int]], layout: dict[str, int]) -> dict[str, Any]:
    words = {f"w{token}": token for ids in texts.values() for token in ids}
    replaced = [
        {"type": "Replace", "pattern": {"String": text}, "content": " ".join(f"w{token}" for token in ids)}
        for text, ids in texts.items()
    ]
    known = SURFACES | OPTIONAL_SURFACES
    surfaces = {known[role]: token for role, token in layout.items() if role != "codebook_size"}
    first = layout["first_visual_token"]
    surfaces |= {f"<|visual token {code:06d}|>": first + code for code in range(layout["codebook_size"])}
    flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    split = {"type": "Split", "pattern": {"Regex": r"w\d+|\d|\*"}, "behavior": "Removed", "invert": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": token, "content": surface, **flags} for surface, token in surfaces.items()],
        "normalizer": {"type": "Sequence", "normalizers": replaced},
        "pre_tokenizer": split,
        "model": {"type": "WordLevel", "vocab": {**DIGIT_IDS, **words, "<unk>": 0}, "unk_token": "<unk>"},
    }
