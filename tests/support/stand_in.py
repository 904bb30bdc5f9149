"""`emu3` with an encoder that needs no model, pictures that kill, and leases that soon expire.

python -m tests.support.stand_in encode SOURCE DATASET …
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

import shared.jobs.engines
import shared.jobs.worker_pool
import vq_stage.encode.job
from pipelines.cli import main
from shared.dataset.plan import UnitSize
from shared.jobs.job import WorkerContext
from shared.jobs.leases import Leases
from vq_stage.encode.input_reader import Prepared, ReadTask
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.worker import EncodeWorker
from vq_stage.model.config import VQConfig

KILLER = "killer"  # begins the keys of pictures that end the process which reads them
SECONDS_A_BATCH = 0.02
LEASE_S, SETTLE_S, RETRY_S = 2.0, 0.1, 0.2
BLOCK = 8


@dataclass(frozen=True, slots=True)
class StandInTokenizer:
    """Codes below `codebook_size` that depend on every pixel."""

    codebook_size: int

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        time.sleep(SECONDS_A_BATCH)
        B, H, W, C = pixels_BHWC.shape
        blocks = pixels_BHWC.reshape(B, H // BLOCK, BLOCK, W // BLOCK, BLOCK * C).astype(np.uint16)
        return blocks.sum(axis=(2, 4), dtype=np.uint16) % np.uint16(self.codebook_size)


class StandInWorker(EncodeWorker):
    """Reads, resizes and commits as the real one does."""

    def __init__(self, options: EncodeOptions, context: WorkerContext):
        super().__init__(options, context)
        self.prepare = self.reader.prepare
        cast(Any, self.reader).prepare = self._prepare

    def _load_tokenizer(self, canary_size: UnitSize) -> None:
        config = VQConfig.from_directory(self.options.vision_tokenizer)
        cast(Any, self).tokenizer = StandInTokenizer(config.codebook_size)
        self.numerics = {"device": "none"}

    def _prepare(self, task: ReadTask) -> Prepared:
        _, planned, is_poisonous = task
        if planned.key.startswith(KILLER) and not is_poisonous:
            os._exit(9)
        return self.prepare(task)


def run() -> None:
    """The command line with the worker put in."""
    from tests.support import stand_in  # under its own name other processes can import it

    for module, name, value in (
        (vq_stage.encode.job, "EncodeWorker", stand_in.StandInWorker),
        (shared.jobs.engines, "Leases", partial(Leases, duration_s=LEASE_S, settle_s=SETTLE_S)),
        (shared.jobs.worker_pool, "RETRY_HELD_ELSEWHERE_S", RETRY_S),
    ):
        setattr(module, name, value)
    main()


if __name__ == "__main__":
    run()
