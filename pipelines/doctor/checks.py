"""The table of all checks. To add one, write a function `(Setting, dtype) → Finding` and list it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipelines.doctor import language, machine, mindone, training, vision
from pipelines.doctor.check import Check
from pipelines.doctor.kernel_checks import KERNEL_CHECKS
from shared.errors import UsageError

MACHINE_CHECKS = (
    Check("versions", "machine", machine.check_versions),
    Check("memory", "machine", machine.check_memory),
    Check("disk", "machine", machine.check_disk),
    Check("processors", "machine", machine.check_processors),
)
DEVICE_CHECKS = (
    Check("vision-codes", "vision", vision.check_codes),
    Check("vision-pixels", "vision", vision.check_pixels),
    Check("canary", "vision", vision.check_canary),
    Check("language-logits", "language", language.check_logits),
    Check("language-tokens", "language", language.check_tokens),
    Check("training", "training", training.check_training),
    *KERNEL_CHECKS,
)
COMPARISONS = {"mindone": mindone.CHECKS}


@dataclass(frozen=True, slots=True)
class CheckTable:
    """Checks of the machine, which run in this process, and of the device, each of which has its own."""

    machine: Sequence[Check] = MACHINE_CHECKS
    device: Sequence[Check] = DEVICE_CHECKS

    def select(self, only: Sequence[str]) -> CheckTable:
        """Return the checks whose name or group is given, where `*` stands for any characters; for none, all.

        Raises UsageError for a name that selects nothing.
        """
        checks = (*self.machine, *self.device)
        for pattern in only:
            if not any(_matches(check, [pattern]) for check in checks):
                names = dict.fromkeys([*(check.group for check in checks), *(check.name for check in checks)])
                raise UsageError(f"--only {pattern}: expected a check or a group of checks: {', '.join(names)}")
        machine, device = ([check for check in part if _matches(check, only)] for part in (self.machine, self.device))
        return CheckTable(machine, device)


def check_table(compare: str | None) -> CheckTable:
    """Return all checks, including those of the comparison with another implementation."""
    return CheckTable(device=(*DEVICE_CHECKS, *COMPARISONS[compare])) if compare else CheckTable()


def _matches(check: Check, only: Sequence[str]) -> bool:
    names = (check.name, check.group)
    return not only or any(fnmatchcase(name, pattern) for pattern in only for name in names)
