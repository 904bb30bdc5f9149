"""A tokenizer of images only, whose codes take 32 bits: from pictures to pictures, with interruptions and damage."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shared.dataset.commit import CommitRecord, UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.maintenance.summary import summarize
from tests.support.command import INTERRUPTED, REPOSITORY, emu3, emu3_here, finish
from tests.support.file_digests import file_digests
from tests.support.flip import flip_bit
from tests.support.paused import PausedCommand
from tests.support.pictures import save_picture
from tests.support.small_datasets import digest
from tests.support.small_sources import gif
from tests.support.step_by_step import stand_in_tokenizer

TOKENIZER = ("--vision-tokenizer", str(REPOSITORY / "tests/golden/emu35_vq_small"), "--device", "cpu")
ENCODE = (*TOKENIZER, "--resize", "none", "--unit-rows", "2", "--batch-pixels", "768", "--quality-samples", "1")
NEW_MODEL = ("--prompting", "emu35", "--qk-norm", "--head-dim", 8, "--text-ids", 300, "--positions", 160)
SIZES = ("--hidden-size", 16, "--intermediate-size", 32, "--layers", 1, "--heads", 2, "--kv-heads", 1)
SFT = ("--steps", 2, "--seq-length", 128, "--micro-batch-size", 1, "--save-every", 1, "--device", "cpu")
SIZE = ("--height", 16, "--width", 24)

Run = Callable[..., object]  # executes a command to its end, whatever happens in between


def interrupted(monkeypatch: pytest.MonkeyPatch, *command: object) -> None:
    """Stop a job that writes a dataset by SIGTERM after its first commit, and resume it."""
    commit = Dataset.commit

    def commit_and_stop(dataset: Dataset, result: UnitResult, plan: Plan) -> CommitRecord:
        record = commit(dataset, result, plan)
        signal.raise_signal(signal.SIGTERM)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "commit", commit_and_stop)
        emu3_here(*command, exit_code=INTERRUPTED)
    emu3_here(*command)


def killed(pattern: str, number: int, folder: Path, *command: object) -> None:
    """End a job by SIGKILL before change `number` of the files that match the pattern, and resume it."""
    paused = PausedCommand(pattern, number, folder / "pause", *command)
    paused.process.kill()
    assert finish(paused.process).returncode == -signal.SIGKILL
    emu3(*command)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures with captions, and a video, which this tokenizer cannot encode."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(5):
        save_picture(folder / f"picture-{index}.png", index)
        (folder / f"picture-{index}.txt").write_text(f"picture number {index}")
    (folder / "film.gif").write_bytes(gif(4))
    return folder


def check_upkeep(codes: Path, source: Path, expected: str, folder: Path) -> Path:
    """Damage, repair, seal, export and import a dataset; return the imported one. The digest stays."""
    dataset = Dataset.open(codes)
    assert summarize(dataset).quarantined == {"images_only": 1}
    record = dataset.record(0)
    row = next(iter(dataset.rows(record)))
    assert row.code_dtype == dataset.plan().settings.codec.code_dtype == "uint32"
    flip_bit(dataset.parts / record.part, row.codes_bytes)
    assert repr(row.key) in emu3_here("verify", codes, exit_code=1)
    assert "the same bytes as before" in emu3_here("repair", codes, source, *TOKENIZER)
    assert digest(codes) == expected
    emu3_here("seal", codes)
    emu3_here("export", codes, folder / "tars")
    emu3_here("import", folder / "tars", folder / "imported")
    assert digest(folder / "imported") == digest(codes) == expected
    assert "70000 entries" in emu3_here("inspect", folder / "imported")
    return folder / "imported"


@dataclass(frozen=True)
class Outcome:
    """Digests of the weights after fine-tuning, of the generated dataset, and of the decoded pictures."""

    weights: str
    tokens: str
    pictures: dict[str, str]


def fine_tuned(codes: Path, folder: Path, run: Run) -> Outcome:
    """Train a new model on codes of 32 bits, and decode what it draws; `run` executes each of the long commands."""
    folder.mkdir()
    (folder / "prompts.txt").write_text("picture number 7\nanother picture\n")
    model, tokens = folder / "run" / "model", folder / "tokens"
    emu3_here("init-lm", codes, folder / "new", *NEW_MODEL, *SIZES)
    run("sft", codes, folder / "run", "--model", folder / "new", *SFT)
    drawing = ("--model", model, *SIZE, "--unit-rows", 1, "--device", "cpu")
    run("generate", folder / "prompts.txt", tokens, *drawing)
    emu3_here("decode", tokens, folder / "pictures", *TOKENIZER)
    rows = [row for record in Dataset.open(tokens).commit_records() for row in Dataset.open(tokens).rows(record)]
    assert {(row.code_dtype, row.codes_THW.shape) for row in rows} == {("uint32", (1, 4, 6))}
    assert np.concatenate([row.codes_THW for row in rows]).max() >= 1 << 16, "an untrained model draws any code"
    pictures = {name: sha256 for name, sha256 in file_digests(folder / "pictures").items() if name.endswith(".png")}
    assert len(pictures) == 2
    return Outcome(file_digests(model)["model.safetensors"], digest(tokens), pictures)


def test_from_pictures_to_pictures_with_interruptions_and_damage(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the tokenizer, and a real language model."""
    stand_in_tokenizer(monkeypatch)
    whole, codes = tmp_path / "whole", tmp_path / "codes"
    emu3_here("encode", source, whole, *ENCODE)
    interrupted(monkeypatch, "encode", source, codes, *ENCODE)
    assert digest(codes) == digest(whole)
    imported = check_upkeep(codes, source, digest(whole), tmp_path)
    fine_tuned(imported, tmp_path / "tuned", emu3_here)


@pytest.mark.slow
def test_every_long_job_killed_and_run_again(source: Path, tmp_path: Path) -> None:
    """In processes of their own, which all have one thread, because rounding depends on their number."""
    whole, codes = tmp_path / "whole", tmp_path / "codes"
    emu3("encode", source, whole, *ENCODE)
    killed(f"{codes}/parts/*.json", 1, tmp_path, "encode", source, codes, *ENCODE)
    assert digest(codes) == digest(whole)
    imported = check_upkeep(codes, source, digest(whole), tmp_path)

    def run(name: str, *arguments: object) -> None:
        pattern, number = ("checkpoints/step-00000002", 0) if name == "sft" else ("parts/*.json", 1)
        killed(f"{arguments[1]}/{pattern}", number, tmp_path, name, *arguments)

    assert fine_tuned(imported, tmp_path / "killed", run) == fine_tuned(whole, tmp_path / "tuned", emu3)
