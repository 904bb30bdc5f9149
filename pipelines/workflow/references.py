"""References in a pipeline file: `${name}` stands for a variable or for the output of a step."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.errors import UsageError

StepOptions = Mapping[str, str | list[str]]
_REFERENCE = re.compile(r"\$\{([^}]+)\}")


def substitute(where: str, text: str, values: Mapping[str, object]) -> str:
    """Replace every reference. Raises UsageError, which begins with `where`, for an unknown name."""
    if missing := [name for name in _REFERENCE.findall(text) if name not in values]:
        raise UsageError(f"{where}: {', '.join(missing)}: no such step or variable; known are {', '.join(values)}")
    return _REFERENCE.sub(lambda match: str(values[match[1]]), text)


def referenced_names(options: StepOptions) -> set[str]:
    """Names that the options of a step refer to."""
    return {name for value in options.values() for text in as_list(value) for name in _REFERENCE.findall(text)}


def as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]
