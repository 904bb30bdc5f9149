"""`emu3 generate --task` killed inside answers of text and images, and run again."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from lm_stage.model.config import read_layout
from shared.dataset.dataset import Dataset
from shared.dataset.rows import AnswerRecord
from shared.tokens.layout import OPTIONAL_SURFACES
from tests.support.command import INTERRUPTED, emu3, finish, leftovers, start, verified_digest, wait_until
from tests.support.disturbed_runs import problems, steps
from tests.support.models import write_language_model
from tests.support.paused import PausedCommand
from tests.support.prompts import write_entries

OPTIONS = ("--task", "story", "--batch-size", 2, "--journal-rows", 1)


@pytest.fixture(scope="module")
def emu35_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of Emu3.5 whose answers seldom end and often draw: by the logits of ESS, EOS and BOI."""
    directory = tmp_path_factory.mktemp("models") / "emu35"
    write_language_model(directory, roles=tuple(OPTIONAL_SURFACES), qk_norm=True)
    weights, layout = load_file(directory / "model.safetensors"), read_layout(directory)
    head_VC = weights["lm_head.weight"].copy()
    head_VC[[layout.ess, layout.eos]] = 0
    head_VC[layout.boi] *= 4
    save_file({**weights, "lm_head.weight": head_VC}, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, one of which forces the size of images, and one that is refused."""
    entries = [{"prompt": "a red apple"}, {"prompt": "a green pear", "height": 16, "width": 24}, {"prompt": ""}]
    return write_entries(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", entries)


@pytest.mark.parametrize(
    ("disturbance", "allowed", "every"),
    [
        pytest.param("kill", {-9}, 16, id="SIGKILL"),
        pytest.param("kill", {-9}, 1, id="SIGKILL everywhere", marks=pytest.mark.slow),
        pytest.param("fail", {1, 0}, 1, id="ENOSPC everywhere", marks=pytest.mark.slow),
        pytest.param("SIGTERM", {INTERRUPTED, 0}, 1, id="SIGTERM everywhere", marks=pytest.mark.slow),
    ],
)
def test_answers_disturbed_at_every_step(
    disturbance: str, allowed: set[int], every: int, emu35_lm: Path, prompts: Path, tmp_path: Path
) -> None:
    """With a stand-in for the logits; every forward counts as a step too."""
    limits = ("--unit-rows", 1, "--max-new-tokens", 90)
    command = ("generate", prompts, "{}", "--model", emu35_lm, *OPTIONS, *limits)
    lines = steps(disturbance, tmp_path / "work", None, *command, every=every)
    assert sum(name.endswith(".arrow") for name in lines[-1]["after"]) == 4, "plan, two units, refused input"
    assert any(name.endswith(".journal") for line in lines[:-1] for name in line["between"])
    assert problems(lines, allowed) == []


def has_journaled(dataset: Path, entries: int) -> bool:
    """Whether the journals of a dataset have so many entries."""
    return sum(path.read_bytes().count(b"\n") - 1 for path in dataset.rglob("*.journal")) >= entries


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert finish(process).returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_real_model_killed_inside_answers_and_at_commits(emu35_lm: Path, prompts: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    limits = ("--unit-rows", 2, "--samples", 2, "--max-new-tokens", 250, "--height", 16, "--width", 24)
    command = ("generate", prompts, killed, "--model", emu35_lm, *OPTIONS, *limits)
    for entries in (1, 3):
        process = start(*command)
        wait_until(partial(has_journaled, killed, entries), process)
        kill(process)
    for change in range(3):  # before a part gets its name, before its record, and at the next unit
        kill(PausedCommand(f"{killed}/parts/*", change, tmp_path / "pause", *command).process)
    emu3(*command)
    emu3("generate", prompts, whole, *command[3:])
    assert verified_digest(killed) == verified_digest(whole)
    assert leftovers(killed) == []
    dataset = Dataset.open(killed)
    rows = [row for record in dataset.commit_records() for row in dataset.rows(record)]
    assert len(rows) == 4
    assert any(list(row.images()) for row in rows if isinstance(row, AnswerRecord))
