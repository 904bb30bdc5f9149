"""Options of `emu3 doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """The device to check; `only` selects checks by name or group, and an empty tuple all of them.

    `compare` names another implementation of the models to compare with. `time_limit_s` replaces the limit of every
    check. `report` is the JSON file to write. Raises UsageError for a limit that is not positive, and for a report that
    cannot be written.
    """

    device: str = "auto"
    kernels: str = "auto"
    only: tuple[str, ...] = ()
    compare: str | None = None
    time_limit_s: float | None = None
    report: str | None = None

    def __post_init__(self) -> None:
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise UsageError(f"--time-limit {self.time_limit_s}: expected more than 0 seconds")
        if self.report is not None and (Path(self.report).is_dir() or not Path(self.report).parent.is_dir()):
            raise UsageError(f"--json {self.report}: expected a file in a folder that exists")
