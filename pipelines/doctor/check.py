"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

PLAIN_KERNELS = "use --kernels plain, which computes it by other operators, and report the JSON file"


class Verdict(str, Enum):
    """The outcome of a check. A check that is skipped cannot pass here, and does not fail the run."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check: `reason` with the measured numbers in a line, and `next_step` after a failure.

    `measured` has the numbers by name, with their unit in the name; `facts` has texts by name.
    """

    verdict: Verdict
    reason: str
    next_step: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, is_passed: bool, reason: str, next_step: str, measured: Mapping[str, float]) -> Finding:
        """Return what a comparison found; the next step is kept for a failure only."""
        verdict = Verdict.PASSED if is_passed else Verdict.FAILED
        return cls(verdict, reason, "" if is_passed else next_step, measured)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a check runs on: `device` is auto, cpu or ascend; `dtypes` are the number types that it offers.

    The process of a check is killed after `limit_s`.
    """

    device: str
    kernels: str = "auto"
    dtypes: tuple[str, ...] = ("float32",)
    limit_s: float = 600.0


OnDevice: TypeAlias = Callable[[Setting, str], Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """A check by name. `run` takes the setting and a number type, in a process of its own.

    There is one process for each number type of the device, or of `only_dtypes`; with `takes_all_dtypes` there is one
    for all types. `needs_npu` is why the check is skipped on a CPU. `--only` selects by name or `group`.
    """

    name: str
    group: str
    run: OnDevice
    takes_all_dtypes: bool = False
    only_dtypes: tuple[str, ...] = ()
    needs_npu: str = ""

    def dtypes(self, setting: Setting) -> tuple[str, ...]:
        """Return the number types that it runs in, one process each; an empty one stands for all."""
        if self.takes_all_dtypes:
            return ("",)
        return tuple(name for name in setting.dtypes if name in (self.only_dtypes or setting.dtypes))


@dataclass(frozen=True, slots=True)
class Result:
    """The finding of a check; `dtype` is empty for a check without a number type."""

    name: str
    dtype: str
    finding: Finding
    elapsed_s: float
    log: str = ""  # the last lines that a failed process printed
