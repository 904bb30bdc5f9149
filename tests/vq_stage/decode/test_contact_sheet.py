"""Contact sheets of datasets."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from tests.support.sequences import broken, sequence, write
from tests.support.step_by_step import StandInTokenizer
from vq_stage.decode import contact_sheet


def test_sequences_that_are_no_image_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vq_stage.tokenizer")
    module.VisionTokenizer = StandInTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vq_stage.tokenizer", module)
    monkeypatch.setattr(contact_sheet, "check_codec", lambda *arguments: None)
    sizes = []
    for number, rows in enumerate(([sequence(0, "a")], [sequence(0, "a"), broken(1, "b")], [broken(0, "a")])):
        write(tmp_path / f"{number}", [rows])
        contact_sheet.draw_contact_sheet(str(tmp_path / f"{number}"), str(tmp_path / f"{number}.png"))
        with Image.open(tmp_path / f"{number}.png") as sheet:
            sizes.append(sheet.size)
    assert sizes[0] == sizes[1] == sizes[2]
