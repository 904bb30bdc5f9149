"""Pictures that are generated while a model is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lm_stage.training.job import sft
from lm_stage.training.options import SftOptions
from pipelines.training_samples import sample_drawer
from shared.errors import ConfigMismatchError, UsageError
from tests.support.captioned_codes import write_codes
from tests.support.fake_ascend import install_fake_ascend
from tests.support.stand_in_training import stand_in_training_step
from vq_stage.model.weights import EMBEDDED_TOKENIZER


@pytest.fixture
def options(tmp_path: Path, small_lm: Path) -> SftOptions:
    codes = str(write_codes(tmp_path / "codes"))
    run, model = str(tmp_path / "run"), str(small_lm)
    return SftOptions(
        (codes,), run, model=model, steps=2, seq_length=128, micro_batch_size=2, save_every=2, device="cpu"
    )


def test_every_checkpoint_draws_pictures(options: SftOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_training_step(monkeypatch)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\na green pear\n")
    sft(options, sample_drawer(options, str(prompts), str(EMBEDDED_TOKENIZER)))
    with Image.open(tmp_path / "run/samples/step-00000002.png") as drawn:
        assert drawn.width > 32


def test_pictures_that_cannot_be_drawn_do_not_stop_the_run(
    options: SftOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n")
    draw = sample_drawer(options, str(prompts), str(EMBEDDED_TOKENIZER))
    draw(tmp_path / "no model", 2)
    assert "step 2: not drawn" in capsys.readouterr().err


def test_devices_without_memory_for_a_second_model_are_refused(
    options: SftOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_ascend(monkeypatch)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n")
    on_ascend = replace(options, device="ascend")
    assert sample_drawer(on_ascend, str(prompts), str(EMBEDDED_TOKENIZER))
    with pytest.raises(UsageError, match=r"--sample-prompts: expected one process.* `emu3 generate PROMPTS"):
        sample_drawer(replace(on_ascend, zero=True), str(prompts), str(EMBEDDED_TOKENIZER))


def test_pictures_that_other_processes_would_wait_for_are_refused(
    options: SftOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    with pytest.raises(UsageError, match=r"--sample-prompts: expected one process.* `emu3 generate PROMPTS"):
        sample_drawer(options, "prompts.txt", str(EMBEDDED_TOKENIZER))


def test_what_cannot_be_drawn_is_refused_before_training(options: SftOptions, golden_vq: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    with pytest.raises(UsageError, match=r"prompts\.txt"):
        sample_drawer(options, str(prompts), str(EMBEDDED_TOKENIZER))
    prompts.write_text("a red apple\n")
    with pytest.raises(ConfigMismatchError, match=r"small was made with .* give --vision-tokenizer"):
        sample_drawer(options, str(prompts), str(golden_vq))


def test_prompts_that_cannot_be_generated_are_refused_before_training(
    options: SftOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, lines = tmp_path / "prompts.jsonl", ['{"prompt": "a", "images": ["one"]}', '{"prompt": "a", "area": -1}']
    prompts.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"every prompt is refused; the first: 000001: missing_image: the prompt cont"):
        sample_drawer(options, str(prompts), str(EMBEDDED_TOKENIZER))
    prompts.write_text("\n".join([*lines, '{"prompt": "a red apple"}']))
    assert sample_drawer(options, str(prompts), str(EMBEDDED_TOKENIZER))
    assert [line.split(": ")[2:4] for line in capsys.readouterr().err.splitlines()] == [
        ["000001", "missing_image"],
        ["000002", "bad_size"],
    ]
