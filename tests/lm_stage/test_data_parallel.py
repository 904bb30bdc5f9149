"""Two processes under `msrun` take the steps that one takes with twice the batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_stage.checkpoints import STATE_FILE
from tests.faults.command import REPOSITORY, emu3, environment
from tests.faults.test_sft_faults import write_codes

SETTINGS = ("--steps", "6", "--row-tokens", "64", "--rows", "2", "--learning-rate", "1e-3", "--save-every", "3")


def msrun(log: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command on two processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", f"--log_dir={log}", "--join=True"]
    programs = Path(sys.executable).parent
    command = [str(programs / "msrun"), *launcher, str(programs / "emu3"), *map(str, arguments)]
    path = environment(PATH=f"{programs}:{os.environ['PATH']}")  # msrun starts whatever is called `python`
    return subprocess.run(command, cwd=REPOSITORY, env=path, capture_output=True, text=True, timeout=300, check=False)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("zero", [(), ("--zero",)], ids=["replicated", "zero"])
def test_two_processes_take_the_steps_of_one(small_lm: Path, tmp_path: Path, zero: tuple[str, ...]) -> None:
    codes = write_codes(tmp_path / "codes")
    one, two = tmp_path / "one", tmp_path / "two"
    emu3("sft", codes, one, "--model", small_lm, *SETTINGS, "--accumulate", 2)
    done = msrun(tmp_path / "log", "sft", codes, two, "--model", small_lm, *SETTINGS, *zero)
    workers = "".join(path.read_text() for path in (tmp_path / "log").glob("worker_*.log"))
    assert done.returncode == 0, done.stderr[-2000:] + workers[-3000:]
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    ours, theirs = load_file(one / "model/model.safetensors"), load_file(two / "model/model.safetensors")
    assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    names = sorted(path.name for path in (two / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006"]
    moments = [load_file(run / "checkpoints" / names[0] / STATE_FILE) for run in (one, two)]
    assert all(np.allclose(moments[0][name], moments[1][name], atol=1e-5) for name in moments[0])
    # On another number of processes the run is the same run, if a step sees as many rows.
    emu3("sft", codes, two, "--model", small_lm, *SETTINGS, "--accumulate", 2)
    refused = emu3("sft", codes, two, "--model", small_lm, *SETTINGS, exit_code=2)
    assert "rows_a_step: recorded 4, given 2" in refused.stderr
