"""An NPU that does not exist: MindSpore's set-up functions for Ascend, replaced by ones that behave as documented."""

from __future__ import annotations

from dataclasses import dataclass, field

import mindspore as ms
import pytest

import shared.device


@dataclass
class FakeAscend:
    """What was set up; `devices` is the number of NPUs that are present."""

    devices: int
    calls: list[tuple[str, object]] = field(default_factory=list)

    def set_deterministic(self, value: bool) -> None:
        """MindSpore accepts this setting once in a process."""
        if any(name == "deterministic" for name, _ in self.calls):
            raise RuntimeError("The 'deterministic' can not be set repeatedly.")
        self.calls.append(("deterministic", value))


def install_fake_ascend(patch: pytest.MonkeyPatch, devices: int = 1) -> FakeAscend:
    """Replace the set-up functions for this test, as in a process that has not set up a device yet."""
    fake = FakeAscend(devices)
    ascend = ms.device_context.ascend
    patch.setattr(shared.device, "_set_up", None)
    patch.setattr(ascend, "is_available", lambda: True)
    patch.setattr(ascend, "device_count", lambda: fake.devices)
    patch.setattr(ms, "set_device", lambda kind: fake.calls.append(("device", kind)))
    patch.setattr(ms, "set_deterministic", fake.set_deterministic)
    for name in ("conv_allow_hf32", "matmul_allow_hf32"):
        patch.setattr(ascend.op_precision, name, lambda value, name=name: fake.calls.append((name, value)))
    return fake
