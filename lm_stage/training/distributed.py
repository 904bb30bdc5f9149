"""The processes that train together under `msrun`; without it there is only one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process is `rank` of `size`. `has_reduce_scatter`: whether the device offers that collective."""

    rank: int = 0
    size: int = 1
    has_reduce_scatter: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def sum(self, *values: float) -> np.ndarray:
        """Return float32 sums of these values over all processes, all of which must call this."""
        own = np.array(values, np.float32)
        if self.size == 1:
            return own
        from mindspore import Tensor, ops

        return ops.AllReduce()(Tensor(own)).asnumpy()

    def wait(self) -> None:
        """Return once every process has called this."""
        self.sum(0.0)


def is_distributed() -> bool:
    """Whether `msrun` started this process."""
    return "MS_ROLE" in os.environ


def join_process_group(has_reduce_scatter: bool) -> ProcessGroup:
    """Join the group that `msrun` started this process in. The device must be set up before."""
    if not is_distributed():
        return ProcessGroup()
    from mindspore import communication

    communication.init()
    return ProcessGroup(communication.get_rank(), communication.get_group_size(), has_reduce_scatter)
