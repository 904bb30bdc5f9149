"""The limit of refused inputs in a row, for planning and for encoding."""

from __future__ import annotations

from shared.errors import JobStoppedError


class RefusalLimit:
    """Stops a job in which too many inputs in a row are refused: then the source is broken, not the inputs.

    `consequence` completes the error message.
    """

    def __init__(self, maximum: int, consequence: str):
        self._maximum = maximum
        self._consequence = consequence
        self._in_a_row = 0

    def count_accepted(self) -> None:
        self._in_a_row = 0

    def count_refused(self, uri: str, reason: str, detail: str) -> None:
        """Raises JobStoppedError above the maximum."""
        self._in_a_row += 1
        if self._in_a_row > self._maximum:
            raise JobStoppedError(
                f"more than {self._maximum} inputs in a row refused, the last: {uri}: {reason}: {detail};"
                f" {self._consequence}; check the source, or raise --max-refused-in-a-row"
            )
