"""The exceptions that users see, as one small tree.

A message says where, what was expected, what was found and what to do next.
"""

from __future__ import annotations


class RelayError(Exception):
    """The base of all errors meant for the user. The command line prints the text and exits with `exit_code`."""

    exit_code = 1


class UsageError(RelayError):
    """A setting or an input that cannot work, found before the work starts."""

    exit_code = 2


class ConfigMismatchError(UsageError):
    """A dataset or run that was created with different settings; the text lists the differences."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, incomplete, or does not fit its config."""


class ShapeError(RelayError, ValueError):
    """An array whose shape, dtype or range does not fit the call."""


class DatasetError(RelayError):
    """A dataset on disk that is missing, damaged or incomplete."""


class MissingDatasetError(DatasetError):
    """A location where a dataset was expected and there is none."""

    exit_code = 2


class NondeterminismError(DatasetError):
    """Two attempts at one unit of work that computed different bytes."""


class DeviceError(UsageError):
    """A device or backend that is missing or cannot run the model."""


class JobStoppedError(RelayError):
    """A job that gave up: too many refused inputs, or steps without a finite loss, in a row."""


class NothingDoneError(RelayError):
    """A job in which every input was refused; the text lists the reasons with their counts."""


class Interrupted(RelayError):
    """A job that was asked to stop, or that leaves units to other jobs. The same command resumes it."""

    exit_code = 75


class RefusedInput(RelayError):
    """An input that cannot be processed. It goes to quarantine with its reason code, and the job continues."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
