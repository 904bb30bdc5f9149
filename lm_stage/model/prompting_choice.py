"""Which prompting a model directory needs, and the control tokens that it adds to the token layout.

| `auto` is | if                                                                                      |
| emu35     | the token layout has BSS and ESS, as in models of this project                          |
| emu35     | queries and keys are normalized and the text vocabulary has BSS and ESS [2]             |
| plain     | otherwise: Emu3's vocabulary has these tokens too, but its sequences do not             |

[2]: as published checkpoints are reported to do; this has not been tried with the published files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lm_stage.text.prompting import AUTO, EMU35, PLAIN, PROMPTINGS, Prompting
from shared.errors import CheckpointError
from shared.storage.small_files import read_json_object
from shared.tokens.layout import TokenLayout

Vocabulary = Callable[[], TokenLayout | None]  # the layout of the text vocabulary, if there is one


def choose_prompting(
    name: str, layout: TokenLayout, has_qk_norm: bool, vocabulary: Vocabulary, where: object
) -> tuple[Prompting, TokenLayout]:
    """Return the prompting of this name, and the layout with the roles that it needs.

    Raises CheckpointError if the vocabulary does not have these.
    """
    if name != AUTO:
        chosen = PROMPTINGS[name]
    elif EMU35.missing_roles(layout):
        found = vocabulary() if has_qk_norm else None
        chosen = PLAIN if found is None or EMU35.missing_roles(found) else EMU35
    else:
        chosen = EMU35
    if chosen.answer_begin and (found := vocabulary()) is not None:
        layout = layout.with_optional_roles(found)
    chosen.check_roles(layout, where)
    return chosen, layout


def layout_from_file(path: Path) -> TokenLayout:
    return TokenLayout.from_mapping(read_json_object(path, error=CheckpointError), str(path))
