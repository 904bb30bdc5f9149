"""`emu3` with an encoder that needs no model, pictures that kill their worker, and leases that expire soon.

    python -m tests.support.stand_in encode SOURCE DATASET …

Workers wait at the gate (see `tests.support.gate`) before every batch, if the environment names one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

import shared.jobs.units
import shared.jobs.worker_pool
import vq_stage.encode.job
from pipelines.cli import main
from shared.dataset.plan import UnitSize
from shared.jobs.claims import Leases
from shared.jobs.job import WorkerContext
from shared.jobs.signals import StopFlag
from tests.support.gate import pass_gate
from vq_stage.encode.input_reader import PreparedInput, ReadTask
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.worker import EncodeWorker
from vq_stage.model.config import VQConfig

KILLER = "killer"  # prefix of the keys of pictures that end the process that reads them
BLOCKER = "blocker"  # prefix of the keys of pictures whose reading never ends, as on a mount that does not answer
LEASE_S, SETTLE_S, RETRY_S = 2.0, 0.1, 0.2
BLOCK = 8


@dataclass(frozen=True, slots=True)
class StandInTokenizer:
    """Returns codes below `codebook_size` that depend on every pixel."""

    codebook_size: int
    stop: StopFlag

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        pass_gate(self.stop)
        B, H, W, C = pixels_BHWC.shape
        blocks = pixels_BHWC.reshape(B, H // BLOCK, BLOCK, W // BLOCK, BLOCK * C).astype(np.uint16)
        return blocks.sum(axis=(2, 4), dtype=np.uint16) % np.uint16(self.codebook_size)


class StandInWorker(EncodeWorker):
    """Reads, resizes and commits as the real worker does."""

    def __init__(self, options: EncodeOptions, source_root: str, context: WorkerContext):
        super().__init__(options, source_root, context)
        self.prepare = self.reader.prepare
        cast(Any, self.reader).prepare = self._prepare

    def _load_tokenizer(self, canary_size: UnitSize) -> None:
        config = VQConfig.from_directory(self.options.vision_tokenizer)
        cast(Any, self).tokenizer = StandInTokenizer(config.codebook_size, self.context.stop)
        self.numerics = {"device": "none"}

    def _prepare(self, task: ReadTask) -> PreparedInput:
        if task.planned.key.startswith(KILLER) and not task.is_poison:
            os._exit(9)
        if task.planned.key.startswith(BLOCKER):
            os.read(os.pipe()[0], 1)
        return self.prepare(task)


def run() -> None:
    """Run the command line with the stand-in worker."""
    from tests.support import stand_in  # other processes can import it by this name, unlike `__main__`

    for module, name, value in (
        (vq_stage.encode.job, "EncodeWorker", stand_in.StandInWorker),
        (shared.jobs.units, "Leases", partial(Leases, duration_s=LEASE_S, settle_s=SETTLE_S)),
        (shared.jobs.worker_pool, "RETRY_HELD_ELSEWHERE_S", RETRY_S),
    ):
        setattr(module, name, value)
    main()


if __name__ == "__main__":
    run()
