"""Less garbage collection: MindSpore creates so many objects while it compiles that it takes an eighth of the time."""

from __future__ import annotations

import gc

OBJECTS = 50_000  # created between two collections; Python's threshold is 700


def rarely_collect_garbage() -> None:
    """Exempt all objects that exist, and examine new ones more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, 20, 20)
