"""`emu3` without models, with pictures that kill their worker, and leases that expire soon.

    python -m tests.support.stand_in (encode|decode|generate) …

Workers wait at the gate (see `tests.support.gate`), if the environment names one: before every batch to encode, every
size to decode, and every unit to generate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import numpy as np

import lm_stage.generate.job
import shared.jobs.units
import shared.jobs.worker_pool
import vq_stage.decode.job
import vq_stage.encode.job
from lm_stage.generate.journal import UnitProgress
from lm_stage.generate.worker import GenerateWorker
from pipelines.cli import main
from shared.dataset.plan import UnitSize
from shared.jobs.claims import Leases
from shared.jobs.job import Task, WorkerContext
from shared.jobs.signals import StopFlag
from tests.support import step_by_step
from tests.support.gate import pass_gate
from vq_stage.decode.worker import DecodeWorker
from vq_stage.encode.input_reader import PreparedInput, ReadTask
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.worker import EncodeWorker
from vq_stage.model.families import read_config

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
        config = read_config(self.options.vision_tokenizer)
        cast(Any, self).tokenizer = StandInTokenizer(config.codebook_size, self.context.stop)
        self.numerics = {"device": "none"}

    def _prepare(self, task: ReadTask) -> PreparedInput:
        if task.planned.key.startswith(KILLER) and not task.is_poison:
            os._exit(9)
        if task.planned.key.startswith(BLOCKER):
            os.read(os.pipe()[0], 1)
        return self.prepare(task)


class StandInDecodeWorker(DecodeWorker):
    """Reads datasets and writes files as the real worker does."""

    def _loaded_tokenizer(self) -> Any:
        pass_gate(self.context.stop)
        if self.tokenizer is None:
            self.tokenizer = cast(Any, step_by_step.StandInTokenizer.from_pretrained(self.options.vision_tokenizer))
        return self.tokenizer


class StandInGenerateWorker(GenerateWorker):
    """Generates, journals and commits as the real worker does."""

    def _set_up_device(self) -> None:
        self.numerics = {"device": "none"}

    @cached_property
    def model(self) -> Any:
        return step_by_step.StandInLanguageModel(self.directory.layout)

    def _open(self, task: Task) -> UnitProgress:
        pass_gate(self.context.stop)
        return super()._open(task)


def run() -> None:
    """Run the command line with the stand-in workers."""
    from tests.support import stand_in  # other processes can import it by this name, unlike `__main__`

    for module, name, value in (
        (vq_stage.encode.job, "EncodeWorker", stand_in.StandInWorker),
        (vq_stage.decode.job, "DecodeWorker", stand_in.StandInDecodeWorker),
        (lm_stage.generate.job, "GenerateWorker", stand_in.StandInGenerateWorker),
        (shared.jobs.units, "Leases", partial(Leases, duration_s=LEASE_S, settle_s=SETTLE_S)),
        (shared.jobs.worker_pool, "RETRY_HELD_ELSEWHERE_S", RETRY_S),
    ):
        setattr(module, name, value)
    main()


if __name__ == "__main__":
    run()
