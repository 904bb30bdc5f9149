"""Damage to the files of a fine-tuning run: found before a model loads, named, and undone where that is possible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lm_stage.model.checksums import CHECKSUMS_FILE
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.training.job import sft
from lm_stage.training.options import SftOptions, SftResult
from shared.errors import CheckpointError
from tests.support.captioned_codes import write_codes

pytestmark = pytest.mark.usefixtures("one_graph")
STEPS = 4


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_codes(tmp_path_factory.mktemp("damage") / "codes")


def resume(codes: Path, model: Path, run: Path, steps: int = STEPS) -> SftResult:
    sizes = {"seq_length": 64, "micro_batch_size": 2, "save_every": 2, "keep": 3}
    return sft(SftOptions((str(codes),), str(run), model=str(model), steps=steps, warmup=1, **sizes))


@pytest.fixture(scope="module")
def finished(codes: Path, small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with checkpoints of steps 2 and 4; tests copy it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    resume(codes, small_lm, run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, share: float) -> None:
    """Flip one bit at a share of the file."""
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_one_flipped_bit_in_any_file_of_a_checkpoint_is_found(codes: Path, small_lm: Path, run: Path) -> None:
    newest = run / "checkpoints" / "step-00000004"
    names = sorted(path.name for path in newest.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "train_state.safetensors"} < set(names)
    for name in names:
        intact = (newest / name).read_bytes()
        flip(newest / name, 0.3)
        with pytest.raises(CheckpointError, match=rf"{name}.*step-00000002 is intact.*`mv .*same command again"):
            resume(codes, small_lm, run)
        with pytest.raises(CheckpointError, match=name):
            ModelDirectory.open(newest)
        (newest / name).write_bytes(intact)


def test_the_command_in_the_message_resumes_the_run(codes: Path, small_lm: Path, run: Path, finished: Path) -> None:
    flip(run / "checkpoints" / "step-00000004" / "model.safetensors", 0.9)
    with pytest.raises(CheckpointError) as refused:
        resume(codes, small_lm, run)
    _, source, target = str(refused.value).split("`")[1].split()
    shutil.move(source, target)
    resume(codes, small_lm, run)
    for name in ("model/model.safetensors", "checkpoints/step-00000004/train_state.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_a_checkpoint_without_its_state_is_still_a_model(run: Path) -> None:
    newest = run / "checkpoints" / "step-00000004"
    (newest / "train_state.safetensors").unlink()
    assert ModelDirectory.open(newest).path == newest


def test_checkpoints_of_earlier_versions_resume_with_a_notice(
    codes: Path, small_lm: Path, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    for name in (CHECKSUMS_FILE, "run_options.json"):
        (run / "checkpoints" / "step-00000002" / name).unlink()
    resume(codes, small_lm, run)
    assert f"has no {CHECKSUMS_FILE}" in capsys.readouterr().err
    assert (run / "model/model.safetensors").read_bytes() == (finished / "model/model.safetensors").read_bytes()


def test_damaged_options_and_logs_do_not_stop_a_run(
    codes: Path, small_lm: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "options.json").write_bytes((run / "options.json").read_bytes()[:40])
    log = (run / "train_log.jsonl").read_bytes().splitlines(keepends=True)
    (run / "train_log.jsonl").write_bytes(b"".join([log[0], b'{"step": 1, "lo\xff\n', *log[2:]]))
    resume(codes, small_lm, run)
    printed = capsys.readouterr().err
    assert "options.json" in printed
    assert "restored from" in printed
    assert "1 damaged lines are removed" in printed
    assert json.loads((run / "options.json").read_text())["steps"] == STEPS
    steps = [json.loads(line)["step"] for line in (run / "train_log.jsonl").read_text().splitlines()]
    assert steps == [0, 2, 3]
    assert b"\xff" in (run / "damaged-train_log.jsonl").read_bytes()


def test_a_finished_model_is_not_written_again(codes: Path, small_lm: Path, run: Path) -> None:
    """Files that were added stay; a model with changed ones is set aside."""
    (run / "model" / "README.md").write_text("mine")
    weights = run / "model" / "model.safetensors"
    written_ns, intact = weights.stat().st_mtime_ns, weights.read_bytes()
    resume(codes, small_lm, run)
    assert weights.stat().st_mtime_ns == written_ns
    assert (run / "model" / "README.md").read_text() == "mine"
    for number in (1, 2):
        (run / "model" / "config.json").write_text(f"{{}}{' ' * number}")
        resume(codes, small_lm, run)
        assert (run / f"model-set-aside-{number}" / "config.json").read_text() == f"{{}}{' ' * number}"
        assert weights.read_bytes() == intact
    assert (run / "model-set-aside-1" / "README.md").read_text() == "mine"
    assert not (run / "adapter").exists()


def test_a_finished_model_can_be_saved_in_another_type(codes: Path, small_lm: Path, run: Path) -> None:
    options = {"seq_length": 64, "micro_batch_size": 2, "steps": STEPS, "warmup": 1}
    sft(SftOptions((str(codes),), str(run), model=str(small_lm), save_dtype="bfloat16", **options))
    assert json.loads((run / "model" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert not list(run.glob("*set-aside*")), "nobody changed the model"
