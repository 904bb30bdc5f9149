"""The processes that train together under `msrun`; without it there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Group:
    """This process is `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all of them have."""
        return self.rank == 0

    def sum(self, *values: float) -> np.ndarray:
        """Float32 sums of these values over all processes; all must call it."""
        given = np.array(values, np.float32)
        if self.size == 1:
            return given
        from mindspore import Tensor, ops

        return ops.AllReduce()(Tensor(given)).asnumpy()


def join_group() -> Group:
    """The group that `msrun` started this process in. To be called once the device is set."""
    if "MS_ROLE" not in os.environ:
        return Group()
    from mindspore import communication

    communication.init()
    return Group(communication.get_rank(), communication.get_group_size())
