"""`emu3 sft` killed, resumed, given other settings, damaged shards and losses that are not finite."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_stage.data.batch import TrainingBatch, build_batch
from lm_stage.training.job import sft
from lm_stage.training.options import SftOptions, SftResult
from lm_stage.training.run_directory import write_options
from shared.dataset.dataset import Dataset
from shared.device import Device
from shared.errors import ConfigMismatchError, DatasetError, Interrupted, JobStoppedError, UsageError
from shared.jobs.file_locks import try_lock
from tests.support.captioned_codes import write_codes
from tests.support.command import INTERRUPTED, emu3, finish
from tests.support.flip import flip_bit
from tests.support.model_bases import conditional_base
from tests.support.models import write_language_model
from tests.support.paused import PausedCommand
from tests.support.stand_in_training import stand_in_training_step

pytestmark = pytest.mark.usefixtures("one_graph")
STEPS = 12
SETTINGS = ("--steps", STEPS, "--seq-length", 64, "--micro-batch-size", 2, "--save-every", 2, "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_codes(tmp_path_factory.mktemp("training") / "codes")


@pytest.fixture(scope="module")
def unbroken(codes: Path, small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; tests must not modify it."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    emu3("sft", codes, run, "--model", small_lm, *SETTINGS)
    return run


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "train_log.jsonl").read_text().splitlines()]


def assert_same_run(run: Path, unbroken: Path) -> None:
    assert losses(run) == losses(unbroken)
    assert len(losses(run)) == STEPS
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (run / "model" / name).read_bytes() == (unbroken / "model" / name).read_bytes()
    newest = f"checkpoints/step-{STEPS:08d}/train_state.safetensors"
    assert (run / newest).read_bytes() == (unbroken / newest).read_bytes()
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]


def run_in_process(codes: Path | Sequence[str], run: Path, model: Path, **changes: object) -> SftResult:
    datasets = tuple(codes) if not isinstance(codes, Path) else (str(codes),)
    small = {"steps": 3, "seq_length": 64, "micro_batch_size": 2}
    return sft(SftOptions(datasets, str(run), model=str(model), **{**small, **changes}))


@pytest.fixture
def without_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are read, but nothing is computed from them: a step takes seconds to compile."""
    stand_in_training_step(monkeypatch)


def test_a_run_learns_and_writes_what_others_load(unbroken: Path) -> None:
    assert losses(unbroken)[-1] < losses(unbroken)[0] - 0.5
    from lm_stage import LanguageModel

    assert LanguageModel.from_pretrained(unbroken / "model").logits([1, 2, 3]).shape[0] == 3
    assert (unbroken / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((unbroken / "tensorboard").iterdir())
    assert len(list((unbroken / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (8, signal.SIGKILL),
        pytest.param(6, signal.SIGTERM, marks=pytest.mark.slow),  # the next test sends it too, in this process
        pytest.param(4, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_exactly(
    step: int, number: signal.Signals, codes: Path, small_lm: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Stopped right before the checkpoint of a step appears."""
    run = tmp_path / "run"
    command = ("sft", codes, run, "--model", small_lm, *SETTINGS)
    paused = PausedCommand(f"{run}/checkpoints/step-{step:08d}", 0, tmp_path / "pause", *command)
    paused.process.send_signal(number)
    paused.resume()
    assert finish(paused.process).returncode == (INTERRUPTED if number == signal.SIGTERM else -number)
    emu3("sft", codes, run, "--model", small_lm, *SETTINGS)
    assert_same_run(run, unbroken)


def test_a_run_with_a_blocked_reader_stops_and_resumes_exactly(
    codes: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_in_process(codes, tmp_path / "whole", small_lm, steps=4)
    released, built = threading.Event(), []

    def build(*arguments: Any) -> TrainingBatch:
        built.append(arguments)
        if len(built) == 3:
            released.wait(60)
        return build_batch(*arguments)

    def stop(checkpoint: Path, step: int) -> None:
        """Stop between two steps, and remove the checkpoint, which must be written again."""
        if step == 2:
            shutil.rmtree(checkpoint)
            os.kill(os.getpid(), signal.SIGTERM)

    options = SftOptions(
        (str(codes),), str(tmp_path / "run"), model=str(small_lm), steps=4, seq_length=64, micro_batch_size=2
    )
    with monkeypatch.context() as patched:
        patched.setattr("lm_stage.data.batch.build_batch", build)
        patched.setattr("shared.jobs.prefetch.STOP_S", 0.1)
        patched.setattr("shared.jobs.prefetch.CLOSE_S", 0.1)
        with pytest.raises(Interrupted, match="SIGTERM: checkpoint of step 2 written"):
            sft(replace(options, save_every=1), on_checkpoint=stop)
    released.set()
    assert sft(options).loss == whole.loss
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("without_steps")
def test_a_model_of_another_class_is_announced(
    codes: Path, small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_in_process(codes, tmp_path / "run", conditional_base(small_lm, tmp_path / "base"), steps=1).model
    assert f"{model}: is an Emu3ForConditionalGeneration" in capsys.readouterr().err
    assert json.loads((model / "config.json").read_text())["architectures"] == ["Emu3ForConditionalGeneration"]


def test_other_settings_in_the_same_directory_are_refused_with_the_difference(
    codes: Path, small_lm: Path, unbroken: Path
) -> None:
    done = emu3("sft", codes, unbroken, "--model", small_lm, *SETTINGS, "--learning-rate", "2e-3", exit_code=2)
    assert "learning_rate: recorded 0.001, given 0.002" in done.stderr


def test_a_changed_dataset_is_refused(unbroken: Path, small_lm: Path, tmp_path: Path) -> None:
    other = write_codes(tmp_path / "other", rows=40)
    with pytest.raises(ConfigMismatchError, match=r"data.*recorded"):
        run_in_process(other, unbroken, small_lm, steps=STEPS, learning_rate=1e-3)


def test_codes_of_another_tokenizer_are_refused(codes: Path, tmp_path: Path) -> None:
    model = write_language_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "codec_fingerprint": "0" * 64}))
    with pytest.raises(ConfigMismatchError, match="encode with one tokenizer"):
        run_in_process(codes, tmp_path / "run", model)
    with pytest.raises(ConfigMismatchError, match="2048 codes"):
        run_in_process(codes, tmp_path / "run", write_language_model(tmp_path / "small", codebook_size=512))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seq_length": 4000}, "positions"),
        ({"seq_length": 8}, "no sample fits"),
        ({"freeze": ("model", "lm_head")}, "nothing to train"),
        ({"freeze": ("embed_tokens", "mpl")}, "--freeze: expected parts of parameter names .* got mpl"),
        ({"clip_norm": -1.0}, "--clip-norm"),
        ({"visual_weight": float("nan")}, "--visual-weight"),
        ({"loss": "visual", "visual_weight": 0.0}, "no codes to learn"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"micro_batch_size": 0}, "--micro-batch-size"),
        ({"caption_dropout": 2.0}, "--caption-dropout"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    changes: dict[str, object], match: str, codes: Path, small_lm: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=match):
        run_in_process(codes, tmp_path / "run", small_lm, **changes)


def damage_one_row(codes: Path) -> str:
    """Flip a bit in the codes of the second unit; return the key of the row."""
    dataset = Dataset(codes)
    record = dataset.record(1)
    row = next(iter(dataset.rows(record)))
    flip_bit(dataset.parts / record.part, row.codes_bytes)
    return row.key


def test_a_damaged_part_stops_the_run_before_the_first_step(small_lm: Path, tmp_path: Path) -> None:
    codes = write_codes(tmp_path / "codes")
    key = damage_one_row(codes)
    with pytest.raises(DatasetError, match=f"damaged rows: '{key}'"):
        run_in_process(codes, tmp_path / "run", small_lm)


@pytest.mark.usefixtures("without_steps")
def test_a_shard_damaged_while_training_is_named_or_skipped(
    small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part was intact when it was opened; the checksums of its rows are compared whenever they are read."""
    codes = write_codes(tmp_path / "codes", rows=8)
    key = damage_one_row(codes)
    monkeypatch.setattr(Dataset, "part_problem", lambda self, record: None)
    with pytest.raises(DatasetError, match=key):
        run_in_process(codes, tmp_path / "run", small_lm, steps=4)
    result = run_in_process(codes, tmp_path / "run", small_lm, steps=4, skip_damaged=True, held_out=(str(codes),))
    assert result.damaged == 1
    assert key in (tmp_path / "run/left_out.jsonl").read_text()


def test_a_damaged_part_that_cannot_be_read_stops_the_run(small_lm: Path, tmp_path: Path) -> None:
    codes = write_codes(tmp_path / "codes")
    path = Dataset(codes).parts / Dataset(codes).record(1).part
    path.write_bytes(path.read_bytes().replace(b"a red", b"a \xff\xff\xff"))
    with pytest.raises(DatasetError, match=r"cannot be read: .*Invalid UTF8"):
        run_in_process(codes, tmp_path / "run", small_lm, skip_damaged=True)


@pytest.mark.usefixtures("without_steps")
def test_a_damaged_part_is_skipped_as_a_whole(small_lm: Path, tmp_path: Path) -> None:
    """Captions have no checksum of their own."""
    codes = write_codes(tmp_path / "codes", rows=8)
    key = damage_one_row(codes)
    tasks = [str(codes), f"{codes},task=text"]
    result = run_in_process(tasks, tmp_path / "run", small_lm, steps=4, skip_damaged=True)
    part = next(record for record in Dataset.open(codes).commit_records() if Dataset.open(codes).part_problem(record))
    listed = (tmp_path / "run/left_out.jsonl").read_text()
    assert result.damaged == part.rows == listed.count("its part is damaged")
    assert f"row '{key}'" in listed


@pytest.mark.parametrize("held_out", [True, False])
def test_a_dataset_without_a_token_to_learn_is_refused(
    held_out: bool, codes: Path, small_lm: Path, tmp_path: Path
) -> None:
    asked = f"{codes},task=understand"
    datasets, options = ([str(codes)], {"held_out": (asked,)}) if held_out else ([str(codes), asked], {})
    with pytest.raises(UsageError, match="task understand has no text to learn with --loss visual"):
        run_in_process(datasets, tmp_path / "run", small_lm, loss="visual", **options)
    with pytest.raises(UsageError, match="task image has no codes to learn with --loss text"):
        run_in_process(codes, tmp_path / "run", small_lm, loss="text")


@pytest.mark.parametrize(
    ("run", "match"),
    [
        ("s3://bucket/run", "expected a local directory"),
        ("codes", "is a dataset"),
        ("codes,task=text", "is a dataset"),
        ("notes.txt", "expected a directory"),
        ("work", "contains model but no options.json"),
    ],
)
def test_a_path_that_is_not_a_run_is_left_unchanged(run: str, match: str, small_lm: Path, tmp_path: Path) -> None:
    write_codes(tmp_path / "codes")
    (tmp_path / "work/model").mkdir(parents=True)
    (tmp_path / "work/model/config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=match):
        sft(SftOptions((str(tmp_path / "codes"),), run if "://" in run else str(tmp_path / run), model=str(small_lm)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def frozen(codes: Path, small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with frozen parameters, in a directory with a file of the user and a leftover."""
    run = tmp_path_factory.mktemp("frozen")
    (run / "draft.tmp").write_text("mine")
    (run / "model.1-ff.tmp").mkdir()
    run_in_process(codes, run, small_lm, freeze=("mlp", "embed_tokens"))
    return run


def test_other_files_in_a_run_are_left_unchanged(frozen: Path) -> None:
    assert (frozen / "draft.tmp").read_text() == "mine"
    assert not (frozen / "model.1-ff.tmp").exists()


def test_frozen_parameters_stay_and_others_move(frozen: Path, small_lm: Path) -> None:
    before, after = load_file(small_lm / "model.safetensors"), load_file(frozen / "model/model.safetensors")
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {name for name in before if "mlp" in name or "embed_tokens" in name}


@pytest.mark.usefixtures("without_steps")
def test_samples_that_are_too_long_are_counted_reported_and_listed(
    codes: Path, small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_in_process(codes, tmp_path / "run", small_lm, seq_length=30)
    printed = capsys.readouterr().err
    assert f"{codes}: {result.too_long} samples are longer than a row of 30 tokens" in printed
    assert "AutoModel" not in printed, "the class of the model is the usual one"
    lines = (tmp_path / "run/left_out.jsonl").read_text().splitlines()
    assert 0 < result.too_long == len(lines) < 30


@pytest.mark.usefixtures("without_steps")
def test_rows_without_a_caption_are_reported_and_listed(
    small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = write_codes(tmp_path / "codes", captioned=12)
    run_in_process([str(codes), f"{codes},task=understand"], tmp_path / "run", small_lm, steps=1, seq_length=200)
    printed = capsys.readouterr().err
    assert f"{codes}: 18 of 30 samples have no caption: trained without one" in printed
    assert f"{codes}: 18 rows without an answer are skipped" in printed
    listed = [json.loads(line) for line in (tmp_path / "run/left_out.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in listed] == ["no answer"] * 18


def test_losses_that_stay_not_finite_stop_the_run_and_name_the_samples(codes: Path, tmp_path: Path) -> None:
    model = write_language_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(JobStoppedError, match=r"2 steps in a row.*image-"):
        run_in_process(codes, tmp_path / "run", model, steps=9, max_bad_steps=2)
    with pytest.raises(JobStoppedError, match="none of 2 steps changed the weights: 2 without a finite loss"):
        run_in_process(codes, tmp_path / "short", model, steps=2, max_bad_steps=5)


def test_a_mixture_with_held_out_loss(codes: Path, small_lm: Path, tmp_path: Path) -> None:
    text = tmp_path / "chat.jsonl"
    text.write_text('{"question": "what is red?", "answer": "an apple"}\n{"text": "a green pear"}\n')
    datasets = [str(codes), f"{codes},task=understand,weight=0.5", f"{text},task=text,weight=3"]
    result = run_in_process(datasets, tmp_path / "run", small_lm, steps=1, seq_length=160, held_out=(str(codes),))
    assert result.held_out_loss is not None
    assert np.isfinite(result.held_out_loss)


def test_adapters_move_alone_are_kept_and_merged(codes: Path, small_lm: Path, tmp_path: Path) -> None:
    """The merged model differs from the base by alpha / rank · B·A in the named layers only."""
    lora = {"lora_rank": 2, "lora_alpha": 4.0, "lora_targets": ("q_proj", "down_proj")}
    result = run_in_process(codes, tmp_path / "run", small_lm, learning_rate=0.01, save_every=2, **lora)
    before, after = load_file(small_lm / "model.safetensors"), load_file(result.model / "model.safetensors")
    adapter = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["r"] == 2
    assert len(adapter) == 2 * 2 * 2
    for name, weight in before.items():
        change = np.zeros_like(weight)
        if "q_proj" in name or "down_proj" in name:
            layer = "base_model.model." + name.removesuffix(".weight")
            change = 4.0 / 2 * adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
            assert np.abs(change).max() > 1e-4
        np.testing.assert_allclose(after[name], weight + change, atol=1e-6)


def test_a_run_of_adapters_resumes_exactly(codes: Path, small_lm: Path, tmp_path: Path) -> None:
    lora = {"lora_rank": 2, "steps": 6, "save_every": 2, "keep": 9}
    whole = run_in_process(codes, tmp_path / "whole", small_lm, **lora)
    for name in ("step-00000004", "step-00000006"):
        shutil.rmtree(tmp_path / "whole" / "checkpoints" / name)
    expected = (whole.model / "model.safetensors").read_bytes()
    assert (
        run_in_process(codes, tmp_path / "whole", small_lm, **lora).model / "model.safetensors"
    ).read_bytes() == expected


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"zero": True}, id="zero"),
        # As above without half precision.
        pytest.param({}, id="weights", marks=pytest.mark.slow),
        pytest.param({"lora_rank": 2}, id="adapters", marks=pytest.mark.slow),
    ],
)
def test_a_run_in_half_precision_resumes_with_its_loss_scale(
    changes: dict[str, object], codes: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train in float16 on the CPU, which the command refuses for its speed, with a loss scale that is too large."""
    monkeypatch.setattr("lm_stage.training.job.setup_device", lambda *device, **dtype: Device("CPU", "float16", "2.8"))
    monkeypatch.setattr("lm_stage.training.model_state.INITIAL_LOSS_SCALE", 2.0**20)
    settings = {"steps": 8, "save_every": 2, "keep": 9, "max_bad_steps": 1, **changes}
    whole = run_in_process(codes, tmp_path / "run", small_lm, **settings)
    checkpoints = tmp_path / "run/checkpoints"
    states = [load_file(checkpoints / f"step-{step:08d}/train_state.safetensors") for step in (2, 8)]
    assert states[0]["loss_scale"] < 2**20
    log = [json.loads(line) for line in (tmp_path / "run/train_log.jsonl").read_text().splitlines()]
    assert 0 < sum("rescaled" in entry for entry in log) < 8
    assert whole.bad_steps == 0
    expected = (checkpoints / "step-00000008/train_state.safetensors").read_bytes()
    for step in (4, 6, 8):
        shutil.rmtree(checkpoints / f"step-{step:08d}")
    assert run_in_process(codes, tmp_path / "run", small_lm, **settings).loss == whole.loss
    assert (checkpoints / "step-00000008/train_state.safetensors").read_bytes() == expected
    start, end = load_file(small_lm / "model.safetensors"), load_file(whole.model / "model.safetensors")
    moved = {name for name in end if not np.array_equal(start[name], end[name])}
    adapted = {name for name in end if any(target in name for target in ("q_proj", "k_proj", "v_proj", "o_proj"))}
    assert moved == (adapted if "lora_rank" in changes else set(end))


def test_adapters_for_missing_layers_are_refused(codes: Path, small_lm: Path, tmp_path: Path) -> None:
    for target in ("w_q", "lm_head"):
        with pytest.raises(UsageError, match=rf"--lora-targets: expected some of .*q_proj.* got {target}"):
            run_in_process(codes, tmp_path / "run", small_lm, lora_rank=2, lora_targets=(target,))


def test_two_runs_in_one_directory_are_refused(codes: Path, small_lm: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_options(tmp_path / "run", {"seed": "of the other process, which may not have written it yet"})
    claim = try_lock(tmp_path / "run/.claim")
    assert claim is not None
    with pytest.raises(UsageError, match="another process trains here"):
        run_in_process(codes, tmp_path / "run", small_lm)
    claim.release()
