"""Runs a command repeatedly and disturbs each run one change to the disk later; prints one JSON line per step.

    python -m tests.support.step_by_step (kill|fail|SIGTERM|SIGINT) EVERY WORKDIR ROOT emu3-arguments…

Every EVERYth change is disturbed, from the first on. In the arguments, `{}` is replaced by a new folder in WORKDIR,
which is a copy of ROOT unless ROOT is `-`. Stand-ins
that do not need MindSpore replace the models, so that every step can be tried; each generated token counts as a change
too. `fail` makes the change fail with ENOSPC. Each line has the exit codes of the disturbed run and of the same command
run again, and the files of the folder after each of them.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import types
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lm_stage.generate.worker
import vq_stage.decode.codec_check
import vq_stage.encode.options
import vq_stage.encode.worker
from lm_stage.inference.answer_generator import AnswerGenerator
from lm_stage.inference.options import InferenceOptions, SamplingOptions
from lm_stage.inference.text_generator import TextGenerator
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.answer_grammar import AnswerGrammar
from lm_stage.text.renderer import SequenceRenderer
from shared.codec import Codec
from shared.device import Device
from shared.tokens.layout import TokenLayout
from tests.support.answers import ChattyCache
from tests.support.file_digests import file_digests
from tests.support.forking import run_forked
from tests.support.small_datasets import WIDE_CODEC

if TYPE_CHECKING:
    import pytest

ADDING, REMOVING = ("os.rename", "os.link", "os.mkdir"), ("os.remove", "os.rmdir")
TOKEN_WRITTEN = "tests.token_written"
WIDE = "EMU3_TESTS_WIDE_CODEC"  # in the environment: vision tokenizers have 131 072 codes of 16 × 16 pixels
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class StandInTokenizer:
    """Encodes the pixels of a code to their mean, from 0 to the largest code, and decodes by repeating it."""

    def __init__(self, codec: Codec):
        self.codec, self.spatial_factor = codec, codec.spatial_factor
        self.step = max(1, codec.codebook_size // 256)

    @classmethod
    def from_pretrained(cls, directory: str, *arguments: object) -> StandInTokenizer:
        return cls(vq_stage.decode.codec_check.read_codec(directory))

    def encode_images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        (B, H, W, _), side = pixels_BHWC.shape, self.spatial_factor
        means = pixels_BHWC.reshape(B, H // side, side, W // side, 3 * side).mean(axis=(2, 4)).astype(np.uint8)
        return means.astype(self.codec.code_dtype) * self.step

    def encode_video(self, frames_THWC: np.ndarray, batch: int = 1) -> np.ndarray:
        return self.encode_images(frames_THWC[:: self.codec.temporal_factor])

    def decode_video(self, codes_THW: np.ndarray) -> np.ndarray:
        return self.decode_images(codes_THW.repeat(self.codec.temporal_factor, axis=0))

    def decode_images(self, codes_BHW: np.ndarray) -> np.ndarray:
        means, side = (codes_BHW // self.step).astype(np.uint8), self.spatial_factor
        return means.repeat(side, axis=1).repeat(side, axis=2)[..., None].repeat(3, axis=3)


class StandInCache:
    """Returns noise as logits, keyed by all tokens of the row, because a model's logits depend on all of them."""

    def __init__(self, rows: int, outputs: int):
        self.rows, self.outputs = rows, outputs
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        self.tokens[row] = list(token_ids)

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        sys.audit(TOKEN_WRITTEN)
        logits_RLK = np.zeros((*token_ids_RL.shape, self.outputs), np.float32)
        for (row, column), token in np.ndenumerate(token_ids_RL):
            position = positions_RL[row, column]
            assert position <= len(self.tokens[row]), "a position was skipped"
            self.tokens[row][position:] = [int(token)]
            seed = zlib.crc32(repr(self.tokens[row]).encode())
            logits_RLK[row, column] = np.random.default_rng(seed).normal(size=self.outputs)
        return logits_RLK

    def candidate_step(self, guidance_scale: float, count: int) -> None:
        return None


class StandInAnswerCache(ChattyCache):
    """Counts each forward as a change."""

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        sys.audit(TOKEN_WRITTEN)
        return super().decode_step(token_ids_RL, positions_RL)


class StandInLanguageModel:
    """Runs the real generators over the logits of the stand-in caches; only answers need the directory."""

    def __init__(self, layout: TokenLayout, directory: ModelDirectory | None = None):
        self.layout, self.directory = layout, directory

    @classmethod
    def for_job(cls, model: ModelDirectory, options: InferenceOptions) -> Any:
        return cls(model.layout, model)

    def visual_generator(
        self, batch_size: int, length: int, sampling: SamplingOptions, guidance_scale: float, window: int
    ) -> VisualGenerator:
        cache = StandInCache(batch_size if guidance_scale == 1 else 2 * batch_size, self.layout.codebook_size)
        return VisualGenerator(cache, self.layout, sampling, guidance_scale, window)

    def text_generator(self, batch_size: int, length: int, sampling: SamplingOptions) -> TextGenerator:
        return TextGenerator(StandInCache(batch_size, self.layout.first_visual_token), self.layout, sampling)

    def answer_generator(
        self,
        batch_size: int,
        length: int,
        sampling: SamplingOptions,
        text_sampling: SamplingOptions,
        guidance_scale: float,
    ) -> AnswerGenerator:
        assert self.directory is not None
        tokenizer, prompting = self.directory.text_tokenizer, self.directory.prompting
        grammar = AnswerGrammar.of(SequenceRenderer(tokenizer, self.layout, prompting=prompting))
        cache: Any = StandInAnswerCache(batch_size if guidance_scale == 1 else 2 * batch_size, grammar)
        return AnswerGenerator(cache, grammar, sampling, text_sampling, guidance_scale)


def stand_in() -> None:
    """Replace the models and the device in this process, and the codec if the environment asks for a wide one."""
    if WIDE in os.environ:
        for module in (vq_stage.encode.options, vq_stage.decode.codec_check):
            module.read_codec = lambda directory: WIDE_CODEC  # type: ignore[attr-defined]
    for module, name, replacement in (
        ("vq_stage.tokenizer", "VisionTokenizer", StandInTokenizer),
        ("lm_stage.language_model", "LanguageModel", StandInLanguageModel),
    ):
        sys.modules[module] = types.ModuleType(module)
        setattr(sys.modules[module], name, replacement)
    for job in (vq_stage.encode.worker, lm_stage.generate.worker):
        job.setup_device = lambda *arguments, **options: Device("CPU", "float32", "none")  # type: ignore[attr-defined]


def stand_in_tokenizer(patch: pytest.MonkeyPatch) -> None:
    """Replace the vision tokenizer, and the device to encode on, as long as the patch lasts."""
    module = types.ModuleType("vq_stage.tokenizer")
    module.VisionTokenizer = StandInTokenizer  # type: ignore[attr-defined]
    patch.setitem(sys.modules, module.__name__, module)
    patch.setattr(vq_stage.encode.worker, "setup_device", lambda *_, **__: Device("CPU", "float32", "none"))


def stand_in_language_model(patch: pytest.MonkeyPatch) -> None:
    """Replace the language model and its device as long as the patch lasts."""
    module = types.ModuleType("lm_stage.language_model")
    module.LanguageModel = StandInLanguageModel  # type: ignore[attr-defined]
    patch.setitem(sys.modules, module.__name__, module)
    patch.setattr(lm_stage.generate.worker, "setup_device", lambda *_, **__: Device("CPU", "float32", "none"))


def disturb_at(step: int, folder: Path, disturb: Callable[[], None], changes: Sequence[str]) -> None:
    """Call `disturb` right before change number `step` that this process makes below the folder."""
    inside, steps = f"{folder}{os.sep}", itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if arguments else ""
        is_change = event in changes or (event == "open" and arguments[2] & WRITING)
        if ((is_change and path.startswith(inside)) or event == TOKEN_WRITTEN) and next(steps) == step:
            print(f"at {event} {path.removeprefix(inside)}", file=sys.stderr, flush=True)
            disturb()

    sys.addaudithook(watch)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disturbance(name: str) -> Callable[[], None]:
    if name == "fail":
        return disk_full
    number = signal.SIGKILL if name == "kill" else signal.Signals[name]
    return lambda: os.kill(os.getpid(), number)


def prepared(folder: Path, root: str, arguments: Sequence[str]) -> list[str]:
    """Create the folder of a run, and return its arguments."""
    shutil.copytree(root, folder) if root != "-" else folder.mkdir()
    return [argument.replace("{}", str(folder)) for argument in arguments]


def import_modules_of_run(folder: Path, root: str, arguments: Sequence[str]) -> None:
    """Import in this process what a run imports, so that its forks have it already."""
    with tempfile.TemporaryFile() as names:

        def note(event: str, imported: tuple[Any, ...]) -> None:
            if event == "import":
                os.write(names.fileno(), f"{imported[0]}\n".encode())

        run_forked(prepared(folder, root, arguments), lambda: sys.addaudithook(note))
        names.seek(0)
        for name in dict.fromkeys(names.read().decode().split()):
            with suppress(ImportError):
                importlib.import_module(name)
    shutil.rmtree(folder)


def run_steps(name: str, every: int, work: Path, root: str, arguments: Sequence[str]) -> None:
    import_modules_of_run(work / "imports", root, arguments)
    disturb = disturbance(name)
    changes = ADDING if name == "fail" else ADDING + REMOVING  # a full disk does not prevent deleting

    def prepare(step: int, folder: Path) -> None:
        disturb_at(step, folder, disturb, changes)

    for step in itertools.count(0, every):
        folder = work / f"step-{step}"
        filled = prepared(folder, root, arguments)
        first = run_forked(filled, partial(prepare, step, folder))
        was_disturbed = first.printed.startswith("at ") or "\nat " in first.printed
        between, again = file_digests(folder), run_forked(filled)
        line = {"step": step, "first": first.exit_code, "first_printed": first.printed, "between": between}
        print(json.dumps({**line, "again": again.exit_code, "printed": again.printed, "after": file_digests(folder)}))
        shutil.rmtree(folder)
        if not was_disturbed:
            return


if __name__ == "__main__":
    stand_in()
    run_steps(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5:])
