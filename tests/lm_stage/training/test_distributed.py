"""Two processes under `msrun` take the same steps as one process with twice the micro-batches."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from lm_stage.training.checkpoints import STATE_FILE
from lm_stage.training.job import sft
from lm_stage.training.options import SftOptions
from shared.errors import ConfigMismatchError, UsageError
from tests.support.captioned_codes import write_codes
from tests.support.command import REPOSITORY, emu3, environment
from tests.support.models import write_language_model
from tests.support.stand_in_training import one_bucket

SETTINGS = ("--steps", 6, "--seq-length", 64, "--micro-batch-size", 2, "--learning-rate", "1e-3", "--save-every", 3)


@contextmanager
def launched(log: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start the command on two processes of this machine; end them with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", f"--log_dir={log}", "--join=True"]
    programs = Path(sys.executable).parent
    command = [str(programs / "msrun"), *launcher, str(programs / "emu3"), *map(str, arguments)]
    path = environment(PATH=f"{programs}:{os.environ['PATH']}")  # msrun starts the first `python` on PATH
    launcher = subprocess.Popen(
        command, cwd=REPOSITORY, env=path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield launcher
    finally:
        for process in (
            [*psutil.Process(launcher.pid).children(recursive=True), launcher] if launcher.poll() is None else []
        ):
            process.kill()
        launcher.communicate()


def msrun(log: Path, *arguments: object) -> None:
    """Run the command on two processes to its end."""
    with launched(log, *arguments) as launcher:
        _, stderr = launcher.communicate(timeout=300)
        workers = "".join(path.read_text() for path in log.glob("worker_*.log"))
        assert launcher.returncode == 0, stderr[-2000:] + workers[-3000:]


def losses(run: Path, name: str = "loss") -> list[float]:
    entries = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]


@dataclass(frozen=True)
class Undisturbed:
    """Datasets to train on and to hold out, and a run of one process."""

    codes: Path
    watched: tuple[object, ...]
    run: Path


@pytest.fixture(scope="module")
def one(small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("one")
    codes = write_codes(folder / "codes")
    few = write_codes(folder / "few", rows=2, units=1)  # one batch: a second process has none
    watched = ("--held-out", few, "--evaluate-every", 2)
    accumulated = ("--gradient-accumulation-steps", 2)
    emu3("sft", codes, folder / "run", "--model", small_lm, *SETTINGS, *accumulated, *watched)
    return Undisturbed(codes, watched, folder / "run")


@pytest.fixture(scope="module")
def small_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with all kinds of parameters: heads of their own size, and norms of queries and keys."""
    return write_language_model(tmp_path_factory.mktemp("models") / "normed", head_dim=6, qk_norm=True)


def sft_in_process(codes: Path, run: Path, model: Path, **changes: Any) -> Path:
    """Train as `emu3 sft` with SETTINGS does."""
    settings = {"steps": 6, "seq_length": 64, "micro_batch_size": 2, "learning_rate": 1e-3, "save_every": 3}
    return sft(SftOptions((str(codes),), str(run), model=str(model), **{**settings, **changes})).model


@pytest.mark.parametrize("zero", [(), ("--zero",)], ids=["replicated", "zero"])
def test_two_processes_take_the_steps_of_one(
    one: Undisturbed, small_lm: Path, tmp_path: Path, zero: tuple[str, ...]
) -> None:
    two = tmp_path / "two"
    msrun(tmp_path / "log", "sft", one.codes, two, "--model", small_lm, *SETTINGS, *one.watched, *zero)
    assert losses(two) == pytest.approx(losses(one.run), rel=1e-5)
    held_out = losses(one.run, "held_out_loss")
    assert len(held_out) == 3
    assert held_out[-1] < held_out[0] < losses(one.run)[0]  # the held-out data resembles the training data
    assert losses(two, "held_out_loss") == pytest.approx(held_out, rel=1e-5)
    ours, theirs = load_file(one.run / "model/model.safetensors"), load_file(two / "model/model.safetensors")
    assert sum(name.endswith(("q_norm.weight", "k_norm.weight")) for name in ours) == 4
    assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    names = sorted(path.name for path in (two / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006"]
    moments = [load_file(run / "checkpoints" / names[0] / STATE_FILE) for run in (one.run, two)]
    assert all(np.allclose(moments[0][name], moments[1][name], atol=1e-5) for name in moments[0])
    # The run resumes on another number of processes with the same global batch size.
    if zero:  # the slices of the state have to be put together
        sft_in_process(one.codes, two, small_lm, gradient_accumulation_steps=2)
    with pytest.raises(ConfigMismatchError, match="global_batch_size: recorded 4, given 2"):
        sft_in_process(one.codes, two, small_lm)


def test_split_and_recomputed_in_one_process_with_frozen_layers(
    small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are the same, frozen weights are written unchanged, and either run resumes as the other."""
    codes = write_codes(tmp_path / "codes")
    frozen: dict[str, Any] = {"freeze": ("embed_tokens",)}
    one_bucket(monkeypatch)
    whole, split = tmp_path / "whole", tmp_path / "split"
    sft_in_process(codes, whole, small_lm, **frozen)
    sft_in_process(codes, split, small_lm, zero=True, recompute=True, **frozen)
    assert losses(whole) == losses(split)
    assert (whole / "model/model.safetensors").read_bytes() == (split / "model/model.safetensors").read_bytes()
    start, end = load_file(small_lm / "model.safetensors"), load_file(split / "model/model.safetensors")
    same = {name for name in end if np.array_equal(start[name], end[name])}
    assert same == {name for name in end if "embed_tokens" in name}
    for run in (whole, split):
        shutil.rmtree(run / "checkpoints/step-00000006")
    sft_in_process(codes, whole, small_lm, zero=True, **frozen)
    sft_in_process(codes, split, small_lm, **frozen)
    assert losses(whole) == losses(split)
    assert (whole / "model/model.safetensors").read_bytes() == (split / "model/model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--lora-rank: expected 0 with --zero"):
        sft_in_process(codes, tmp_path / "lora", small_lm, lora_rank=4, zero=True)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_checkpoints_stay(small_lm: Path, tmp_path: Path) -> None:
    codes, run = write_codes(tmp_path / "codes"), tmp_path / "run"
    settings = ("--model", small_lm, *SETTINGS[:1], 400, *SETTINGS[2:])
    with launched(tmp_path / "log", "sft", codes, run, *settings) as launcher:
        deadline = time.monotonic() + 200
        while not list((run / "checkpoints").glob("step-*")):
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        workers = [one for one in psutil.Process(launcher.pid).children(recursive=True) if "sft" in one.cmdline()]
        workers[-1].kill()
        assert launcher.wait(timeout=120) != 0
    assert not [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    done = int(sorted((run / "checkpoints").glob("step-" + "[0-9]" * 8))[-1].name[-8:])
    assert 3 <= done < 400
