"""Checks of single kernels on an NPU, each against the kernel for CPU, which another process computes meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.doctor import language_kernels, vision_kernels
from pipelines.doctor.check import PLAIN_KERNELS, Check, Finding, Setting, Verdict
from pipelines.doctor.isolated import Broken, IsolatedCall
from pipelines.doctor.kernel_case import Case, Inputs, Kernels, Sizes, case_error, published_widths
from pipelines.doctor.tolerances import TOLERANCES

NEEDS_NPU = "on a CPU the kernels are those that they are compared with"
REFERENCE_SHARE = 0.5  # of the time of a check, so that a reference that hangs is reported as what it is


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """A case of a stage, `vision` or `language`, in all number types: one process a kernel, since there are many."""

    stage: str
    case: Case
    sizes: Sizes

    def run(self, setting: Setting, dtype: str) -> Finding:
        """Compute the case in each number type of the setting. `dtype` is not used."""
        from shared.device import setup_device

        with IsolatedCall(compute_reference, self.stage, self.case, self.sizes) as reference:
            kernels = kernels_of(self.stage, setup_device(setting.device, kernels=setting.kernels))
            found = {name: compute_case(self.case, kernels, name, self.sizes) for name in setting.dtypes}
            outcome = reference.outcome(REFERENCE_SHARE * setting.limit_s)
        if isinstance(outcome, Broken):
            reason = f"the reference on the CPU could not be computed: {outcome.problem}"
            return Finding(Verdict.FAILED, reason, "run the checks on the CPU first: --device cpu")
        return judge({name: case_error(results, outcome.value) for name, results in found.items()})


def judge(errors: dict[str, float]) -> Finding:
    """Return the finding of the errors of a kernel by number type."""
    allowed = {name: TOLERANCES[name].kernels for name in errors}
    wrong = [name for name, error in errors.items() if not error <= allowed[name]]
    listed = ", ".join(f"{error:.1e} in {name} (at most {allowed[name]:g})" for name, error in errors.items())
    step = f"this kernel is wrong in {' and '.join(wrong)}; {PLAIN_KERNELS}"
    measured = {f"error_{name}": error for name, error in errors.items()}
    return Finding.of(not wrong, f"relative error {listed}", step, measured)


def compute_reference(stage: str, case: Case, sizes: Sizes) -> list[np.ndarray]:
    """Compute a case with the kernels for CPU, in a process of its own."""
    from shared.device import setup_device

    return compute_case(case, kernels_of(stage, setup_device("cpu")), "float32", sizes)


def compute_case(case: Case, kernels: Kernels, dtype: str, sizes: Sizes) -> list[np.ndarray]:
    import mindspore as ms

    return case(kernels, Inputs(getattr(ms, dtype)), sizes).run()


def kernels_of(stage: str, device: Any) -> Kernels:
    if stage == "vision":
        from vq_stage.model import kernels as vision

        return vision.select(device)
    from lm_stage.model import kernels as language

    return language.select(device)


KERNEL_CHECKS = tuple(
    Check(
        f"{stage}-kernel-{name}",
        "kernels",
        KernelCheck(stage, case, published_widths()).run,
        takes_all_dtypes=True,
        needs_npu=NEEDS_NPU,
    )
    for stage, cases in (("vision", vision_kernels.CASES), ("language", language_kernels.CASES))
    for name, case in cases.items()
)
