"""The token layout: the ids of the control tokens and the range of the visual tokens in a vocabulary.

A visual token is a code plus `first_visual_token`; all other ids are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from shared.errors import CheckpointError

# Field of TokenLayout -> its surface form in the published vocabulary.
SURFACES = {
    "pad": "<|endoftext|>",
    "eol": "<|extra_200|>",
    "eof": "<|extra_201|>",
    "bos": "<|extra_203|>",
    "eos": "<|extra_204|>",
    "img": "<|image token|>",
    "boi": "<|image start|>",
    "eoi": "<|image end|>",
    "first_visual_token": "<|visual token 000000|>",
}
# The same for roles that only Emu3.5 gives to tokens, which Emu3's vocabulary has too and leaves unused.
OPTIONAL_SURFACES = {
    "bss": "<|extra_100|>",
    "ess": "<|extra_101|>",
    "bog": "<|extra_60|>",
    "eog": "<|extra_61|>",
    "boc": "<|extra_50|>",
    "eoc": "<|extra_51|>",
}


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Ids of the control tokens, and the range of the visual tokens.

    `eol` ends a row of codes and `eof` a frame; `boi` and `eoi` enclose an image, and `img` separates its size from
    its codes. Optional, None if a model does not use them: `bss` and `ess` enclose an answer, `bog` and `eog` its
    global reasoning, `boc` and `eoc` the reasoning about an image. Raises CheckpointError if two roles share an id.
    """

    pad: int
    bos: int
    eos: int
    img: int
    boi: int
    eoi: int
    eol: int
    eof: int
    first_visual_token: int
    codebook_size: int
    bss: int | None = None
    ess: int | None = None
    bog: int | None = None
    eog: int | None = None
    boc: int | None = None
    eoc: int | None = None

    def __post_init__(self) -> None:
        control = self.control_ids
        if self.codebook_size < 1:
            raise CheckpointError(f"token layout: codebook_size {self.codebook_size}: the model has no visual tokens")
        if len(set(control.values())) != len(control) or min(control.values()) < 0:
            raise CheckpointError(f"token layout: expected distinct ids from 0 up, got {control}")
        if overlapping := [name for name, token in control.items() if self.is_visual(token)]:
            roles = ", ".join(overlapping)
            raise CheckpointError(f"token layout: {roles} lie within the visual tokens: {self.to_dict()}")

    @property
    def control_ids(self) -> dict[str, int]:
        """The id of each control token by role, without the roles that the model does not use."""
        ids = {name: getattr(self, name) for name in (*SURFACES, *OPTIONAL_SURFACES) if name != "first_visual_token"}
        return {name: token for name, token in ids.items() if token is not None}

    @property
    def end_of_visual(self) -> int:
        """The id after the last visual token."""
        return self.first_visual_token + self.codebook_size

    def is_visual(self, token: int) -> bool:
        return self.first_visual_token <= token < self.end_of_visual

    def check_vocabulary(self, vocab_size: int, where: str) -> None:
        """Raise CheckpointError if an id of the layout is outside a model's vocabulary."""
        last = max(self.end_of_visual - 1, *self.control_ids.values())
        if last >= vocab_size:
            raise CheckpointError(
                f"{where}: the token layout reaches id {last}, the model's vocabulary ends at {vocab_size - 1};"
                " use the text tokenizer and layout that belong to this model"
            )

    def agrees_with(self, other: TokenLayout) -> bool:
        """Whether no role has different ids in the two layouts; optional roles may be missing in either."""
        roles = self.to_dict().keys() & other.to_dict().keys()
        return all(getattr(self, role) == getattr(other, role) for role in roles)

    def with_optional_roles(self, other: TokenLayout) -> TokenLayout:
        """Return the layout with those optional roles that only the other one has."""
        missing = {name: getattr(other, name) for name in OPTIONAL_SURFACES if getattr(self, name) is None}
        return replace(self, **missing)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "layout") -> TokenLayout:
        """Build from the fields by name; optional ones may be missing or None.

        Raises CheckpointError if another one is missing, or one is unknown or not an integer.
        """
        if isinstance(values, Mapping):
            values = {name: one for name, one in values.items() if one is not None or name not in OPTIONAL_SURFACES}
        if not isinstance(values, Mapping) or not all(isinstance(value, int) for value in values.values()):
            raise CheckpointError(f"{where}: token layout: expected integers by name, got {values!r:.100}")
        fields = set(cls.__slots__)
        missing, extra = sorted(fields - set(OPTIONAL_SURFACES) - set(values)), sorted(set(values) - fields)
        if missing or extra:
            raise CheckpointError(
                f"{where}: token layout: missing {missing or 'nothing'}, unknown {extra or 'nothing'}"
            )
        return cls(**values)

    @classmethod
    def from_surfaces(cls, ids: Mapping[str, int], where: str, with_optional: bool = False) -> TokenLayout:
        """Build from a vocabulary, by the published surface forms of its control and visual tokens.

        `with_optional`: also give the optional roles to the tokens that the vocabulary has for them.
        Raises CheckpointError if a control token is missing or the visual tokens are not consecutive.
        """
        if missing := [surface for surface in SURFACES.values() if surface not in ids]:
            raise CheckpointError(f"{where}: the vocabulary lacks {', '.join(missing)}; use one with visual tokens")
        first = ids[SURFACES["first_visual_token"]]
        count = 0
        while ids.get(f"<|visual token {count:06d}|>") == first + count:
            count += 1
        visual = sum(surface.startswith("<|visual token ") for surface in ids)
        if visual != count:
            raise CheckpointError(f"{where}: {visual} visual tokens, but only the first {count} have consecutive ids")
        surfaces = SURFACES | OPTIONAL_SURFACES if with_optional else SURFACES
        return cls(**{name: ids[one] for name, one in surfaces.items() if one in ids}, codebook_size=count)

    def to_dict(self) -> dict[str, int]:
        """Return the fields by name, without the roles that the model does not use."""
        return {name: value for name, value in asdict(self).items() if value is not None}
