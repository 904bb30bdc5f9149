"""Training: the codebook's averages, crops, and a run that resumes exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from safetensors.numpy import load_file

import vq_stage.training.job
from shared.errors import ConfigMismatchError, UsageError
from tests.support.pictures import save_picture
from vq_stage import VisionTokenizer
from vq_stage.model.config import VQConfig
from vq_stage.model.network import Quantizer
from vq_stage.training.codebook import CodebookAverage
from vq_stage.training.data import random_crop
from vq_stage.training.job import learning_rate_schedule, quantized_share, train_vq
from vq_stage.training.options import TrainVQOptions

TINY = VQConfig(base_channels=32, channel_multiplier=(1, 1, 1, 1), num_res_blocks=1, codebook_size=16)


def test_codebook_moves_to_the_mean_of_its_latents() -> None:
    quantizer = Quantizer(VQConfig(base_channels=32, codebook_size=2))
    average = CodebookAverage(quantizer, decay=0.5, seed=0)
    average.restore({"counts": np.array([1.0, 1.0]), "sums": np.array([[0.0] * 4, [8.0] * 4])})
    latents = np.full((1, 1, 4, 1, 2), 2.0, np.float32)
    usage = average.update(latents, np.zeros((1, 1, 1, 2), np.int32), step=0)
    moved = quantizer.embedding.weight.asnumpy()
    # count 0.5·1 + 0.5·2 = 1.5, sum 0.5·0 + 0.5·4 = 2: mean 4/3; the unused code keeps its place
    np.testing.assert_allclose(moved, [[4 / 3] * 4, [8.0] * 4], rtol=1e-6)
    assert usage == 1.0


def test_dead_codes_are_restarted_on_latents() -> None:
    quantizer = Quantizer(VQConfig(base_channels=32, codebook_size=4))
    average = CodebookAverage(quantizer, decay=0.5, seed=0)
    average.restore({"counts": np.array([1.0, 0, 0, 0]), "sums": np.zeros((4, 4))})
    latents = np.random.default_rng(0).normal(5, 0.1, (1, 1, 4, 8, 8)).astype(np.float32)
    average.update(latents, np.zeros((1, 1, 8, 8), np.int32), step=24)
    assert np.abs(quantizer.embedding.weight.asnumpy()[1:] - 5).max() < 1


@pytest.mark.parametrize("size", [(100, 60), (20, 30)])
@pytest.mark.parametrize("frames", [1, 4])
def test_crops_are_of_the_size_and_drawn_by_seed(size: tuple[int, int], frames: int) -> None:
    image = Image.effect_noise(size, 80).convert("RGB")
    crops = [random_crop(image, 32, frames, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert crops[0].shape == (frames, 32, 32, 3)
    np.testing.assert_array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


def options(tmp_path: Path, **changes: object) -> TrainVQOptions:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY.to_dict()))
    for index in range(4):
        save_picture(tmp_path / "pictures" / f"{index}.png", index, 48, 48)
    values = {"steps": 6, "crop": 32, "batch": 4, "clip_share": 0.0, "save_every": 2, "warmup": 2, "reader_threads": 1}
    values |= {"quantize_from": 1, "quantize_fully_from": 3, "config": str(config), "out": str(tmp_path / "out")}
    return TrainVQOptions(source=str(tmp_path / "pictures"), **{**values, **changes})  # type: ignore[arg-type]


def test_a_run_stopped_at_a_checkpoint_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on disk at the second checkpoint is what a run that is killed there leaves."""
    save = vq_stage.training.job.save_rows
    saves = []

    def keep_what_is_there(*given: Any) -> None:
        saves.append(1)
        if len(saves) == 2:
            shutil.copytree(tmp_path / "whole", tmp_path / "broken")
        save(*given)

    with monkeypatch.context() as patch:
        patch.setattr("vq_stage.training.job.save_rows", keep_what_is_there)
        whole = train_vq(options(tmp_path, out=str(tmp_path / "whole")))
    assert len(saves) == 3
    broken = train_vq(options(tmp_path, out=str(tmp_path / "broken")))
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (broken / "train_log.jsonl").read_text().splitlines()]
    assert steps == list(range(6))
    assert (broken / "samples" / "step-0000006.png").is_file()
    codes = VisionTokenizer.from_pretrained(broken).encode_images(np.zeros((1, 16, 16, 3), np.uint8))
    assert codes.shape == (1, 2, 2)
    with pytest.raises(ConfigMismatchError, match=r"batch: recorded 4, given 2"):
        train_vq(options(tmp_path, out=str(broken), batch=2))


def test_fine_tuning_starts_from_the_given_tokenizer(tmp_path: Path, golden_vq: Path) -> None:
    chosen = options(tmp_path, config=None, init_from=str(golden_vq), steps=1, learning_rate=1e-9)
    tuned = load_file(train_vq(chosen) / "model.safetensors")
    start = load_file(golden_vq / "model.safetensors")
    np.testing.assert_allclose(tuned["encoder.conv_in.weight"], start["encoder.conv_in.weight"], atol=1e-6)


def test_schedules() -> None:
    chosen = TrainVQOptions("s", "o", config="c", steps=100, warmup=10, learning_rate=1.0)
    rates = learning_rate_schedule(chosen)
    assert rates[0] == pytest.approx(0.1, rel=1e-2)
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[-1] == pytest.approx(0.01, abs=0.002)
    shares = [quantized_share(step, chosen) for step in (0, 20, 110, 200, 9999)]
    assert shares == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "either --config"),
        ({"crop": 20}, "multiple of 8"),
        ({"clip_share": 2.0}, "0 to 1"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainVQOptions("s", "o", **{"config": "c", **changes})  # type: ignore[arg-type]


def test_gradient_reaches_every_weight(tmp_path: Path) -> None:
    """Straight-through: the encoder learns from the reconstruction although codes are discrete.

    Noise on every weight, since branches that begin at zero hide those before them from the first gradient.
    """
    from vq_stage.model.network import VQModel
    from vq_stage.training.job import TrainStep, initialize

    model, random = VQModel(TINY), np.random.default_rng(0)
    initialize(model, 0)
    for p in model.trainable_params():
        p.set_data(p + Tensor(random.normal(scale=0.05, size=p.shape).astype(np.float32)))
    step = TrainStep(model, options(tmp_path))
    pixels = Tensor(np.random.default_rng(0).uniform(-1, 1, (2, 4, 3, 32, 32)).astype(np.float32))
    _, gradients = step.gradient(pixels, Tensor(1.0, ms.float32))
    dead = [p.name for p, g in zip(step.weights, gradients) if not np.abs(g.asnumpy()).max() > 0]
    assert dead == []
