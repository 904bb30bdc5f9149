"""Everything that can go wrong, as one small tree.

A message names the place, what was expected, what was found and the next step.
"""

from __future__ import annotations


class RelayError(Exception):
    """Base of all errors meant for the user; the command line prints its text and exits with `exit_code`."""

    exit_code = 1


class UsageError(RelayError):
    """A setting or an input that cannot work, found before the work starts."""

    exit_code = 2


class ConfigMismatchError(UsageError):
    """A dataset was begun with other settings; the text carries the diff."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, incomplete or of another shape."""


class ShapeError(RelayError, ValueError):
    """An array whose shape, dtype or range does not fit the call."""


class DatasetError(RelayError):
    """A dataset on disk that is damaged or not what it says it is."""


class NondeterminismError(DatasetError):
    """Two attempts at one unit of work wrote different bytes."""


class DeviceError(UsageError):
    """A device or backend that is not there or cannot run the model."""


class JobStoppedError(RelayError):
    """A job that gave up: too many refused inputs, or steps without a finite loss, in a row."""


class Interrupted(RelayError):
    """The user or the system asked the job to stop; what is committed stays, the same command resumes."""

    exit_code = 75


class RefusedInput(RelayError):
    """One input that cannot be processed. It goes to quarantine with its reason and the job goes on."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
