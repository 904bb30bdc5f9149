"""Lengths of sequences, counted by hand."""

from __future__ import annotations

from shared.tokens.grid_formats import EMU35_IMAGE, ROWS
from shared.tokens.sequence_form import SequenceForm


def test_an_image_of_emu3() -> None:
    """BOS, BOI, IMG and EOS; the size; two rows with EOL; EOF and EOI."""
    assert SequenceForm().length(False, 1, 2, 3) == 4 + len("2*3") + 2 * (3 + 1) + 2


def test_an_image_of_emu35() -> None:
    """BSS and ESS too; no EOL after the last row and no EOF."""
    form = SequenceForm(EMU35_IMAGE, control_tokens=6)
    assert form.length(False, 1, 12, 3) == 6 + len("12*3") + 12 * 3 + 11 + 1


def test_a_video() -> None:
    assert SequenceForm().length(True, 4, 2, 3) == 4 + len("4*2*3") + 4 * (2 * 3 + 1) + 1
    assert SequenceForm(video_format=ROWS).length(True, 4, 2, 3) == 4 + len("4*2*3") + 4 * (2 * 4 + 1) + 1
