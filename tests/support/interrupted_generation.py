"""A generator that is interrupted after a number of decode steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from shared.errors import Interrupted


@contextmanager
def interrupted_after(steps: int, generator: type[Any]) -> Iterator[None]:
    """Let `step` of a class of generators raise Interrupted after some steps, with which the block has to end."""
    step, left = generator.step, iter(range(steps))

    def interrupted_step(self: Any) -> Any:
        if next(left, None) is None:
            raise Interrupted("test")
        return step(self)

    with patch.object(generator, "step", interrupted_step), pytest.raises(Interrupted):
        yield
