"""Names of tensors: those of published checkpoints, and those of our networks, which are Hugging Face's for Emu3.

Emu3's tokenizer by BAAI, Emu3.5's and SEED-Voken's use the names of taming-transformers for the same layers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # options of jobs read configs, so this module loads no library
    import numpy as np

NamedArray = tuple[str, "np.ndarray"]
# Names of taming-transformers on the left; applied in order. Hugging Face names pass through unchanged.
_RENAMES = [
    (r"^(?:model\.)?vqmodel\.", ""),
    (r"^encoder\.down\.", "encoder.down_block.down."),
    (r"^decoder\.up\.", "decoder.up_block.up."),
    (r"\.mid\.attn_1\.norm\.", ".middle_block.attn_norm."),
    (r"\.mid\.", ".middle_block."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"\.(attn\.\d+|attn_1)\.(q|k|v)\.", r".\1.\2_proj."),
    (r"\.(attn\.\d+|attn_1)\.proj_out\.", r".\1.out_proj."),
]
_REVERSE_RENAMES = [
    (r"^encoder\.down_block\.down\.", "encoder.down."),
    (r"^decoder\.up_block\.up\.", "decoder.up."),
    (r"\.middle_block\.attn_norm\.", ".mid.attn_1.norm."),
    (r"\.middle_block\.", ".mid."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.(attn\.\d+|attn_1)\.(q|k|v)_proj\.", r".\1.\2."),
    (r"\.(attn\.\d+|attn_1)\.out_proj\.", r".\1.proj_out."),
]


def hugging_face_name(name: str) -> str:
    """Return the Hugging Face name of a tensor of either naming, without the `vqmodel.` prefix."""
    return _renamed(name, _RENAMES)


def taming_name(name: str) -> str:
    """Return the name that a parameter of our networks has in taming-transformers: the reverse renaming."""
    return _renamed(name, _REVERSE_RENAMES)


def as_hugging_face(name: str, value: np.ndarray) -> NamedArray:
    """Return a parameter of our networks as Hugging Face's checkpoints have it: unchanged."""
    return name, value


def as_taming(name: str, value: np.ndarray) -> NamedArray:
    """Return a parameter of our networks as taming-transformers has it, where linear layers are 1×1 convolutions."""
    is_linear = name.endswith("_proj.weight") and value.ndim == 2
    return taming_name(name), value[:, :, None, None] if is_linear else value


def _renamed(name: str, renames: list[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name
