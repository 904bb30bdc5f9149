"""The gradients of index backpropagation, and training with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops
from safetensors.numpy import load_file

from shared.device import setup_device
from shared.errors import UsageError
from tests.support.ibq_shapes import published_shapes
from tests.support.pictures import save_picture
from tests.support.vision_models import TINY_IBQ, step_that_changes_nothing
from vq_stage import VisionTokenizer
from vq_stage.model.ibq import IbqNetwork, IndexQuantizer
from vq_stage.model.kernels import cpu
from vq_stage.training.index_backpropagation import IndexBackpropagationStep, TrainedCodebook, entropy_loss
from vq_stage.training.initialization import initialize_ibq
from vq_stage.training.job import train_vq
from vq_stage.training.options import TrainVQOptions

setup_device("cpu")


def step_of(seed: int = 0) -> IndexBackpropagationStep:
    """A step whose weights all have noise, since branches that start at zero hide those before them."""
    model, random = IbqNetwork(TINY_IBQ, cpu), np.random.default_rng(seed)
    initialize_ibq(model, seed)
    for p in model.trainable_params():
        p.set_data(p + Tensor(random.normal(scale=0.05, size=p.shape).astype(np.float32)))
    return IndexBackpropagationStep(model, TrainVQOptions("s", "o", config="c", steps=6))


def test_gradients_are_those_of_the_paper() -> None:
    """Against its own form: a one-hot matrix that passes the gradient on to the softmax, times the codebook."""
    step, random = step_of(), np.random.default_rng(1)
    quantizer = step.model.quantize
    latents = Tensor(random.normal(size=(2, 1, 4, 3, 2)).astype(np.float32))
    probe = Tensor(random.normal(size=(2, 1, 4, 3, 2)).astype(np.float32))
    step.distances = lambda latents, entries, quantized: (quantized * probe).sum()  # reads `quantized` only

    def found_loss(latents: Tensor) -> Tensor:
        return step.quantize(latents, Tensor(1.0, ms.float32))[2] - 0.05 * entropy_loss(logits_of(latents))

    def logits_of(latents: Tensor) -> Tensor:
        return ops.matmul(latents.transpose(0, 1, 3, 4, 2).reshape(-1, 4), quantizer.embedding.weight.T)

    def expected_loss(latents: Tensor) -> Tensor:
        logits = logits_of(latents)
        soft = ops.softmax(logits, -1)
        hard = ops.one_hot(logits.argmax(-1).astype(ms.int32), 16, Tensor(1.0), Tensor(0.0))
        quantized = ops.matmul(hard - ops.stop_gradient(soft) + soft, quantizer.embedding.weight)
        return (quantized.reshape(2, 1, 3, 2, 4).transpose(0, 1, 4, 2, 3) * probe).sum()

    codebook = ms.ParameterTuple([quantizer.embedding.weight])
    found, expected = (ms.value_and_grad(one, 0, codebook)(latents) for one in (found_loss, expected_loss))
    assert float(found[0].asnumpy()) == pytest.approx(float(expected[0].asnumpy()), rel=1e-4)
    for a, b in zip((found[1][0], found[1][1][0]), (expected[1][0], expected[1][1][0])):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-4)


def test_gradient_reaches_every_weight_and_every_entry_of_the_codebook() -> None:
    step = step_of()
    pixels = Tensor(np.random.default_rng(0).uniform(-1, 1, (2, 1, 3, 32, 32)).astype(np.float32))
    (_, _, _, codes, _), gradients = step.gradient(pixels, Tensor(1.0, ms.float32))
    without = [p.name for p, g in zip(step.weights, gradients) if not np.abs(g.asnumpy()).max() > 0]
    assert without == []
    codebook = next(g for p, g in zip(step.weights, gradients) if p.name.endswith("embedding.weight")).asnumpy()
    assert len(np.unique(codes.asnumpy())) < 16
    assert (np.abs(codebook).max(1) > 0).all()


def test_entropy_loss_is_least_for_certain_and_different_codes() -> None:
    certain = Tensor(np.eye(4, dtype=np.float32))
    same, unsure = Tensor(np.eye(4, dtype=np.float32)[[1, 1, 1, 1]]), Tensor(np.zeros((4, 4), np.float32))
    values = [float(entropy_loss(logits).asnumpy()) for logits in (certain, same, unsure)]
    np.testing.assert_allclose(values, [-np.log(4), 0, 0], atol=1e-3)


def test_use_of_codes_is_a_moving_average() -> None:
    use = TrainedCodebook(IndexQuantizer(replace(TINY_IBQ, codebook_size=4), cpu), 0.5, 0)
    use.initialize_from_codebook()
    shares = [use.update(np.zeros(0), np.array([[0, 1, 1, 1]]), step) for step in range(6)]
    assert shares[0] == 1.0
    assert shares[-1] == 0.5
    restored = TrainedCodebook(IndexQuantizer(replace(TINY_IBQ, codebook_size=4), cpu), 0.5, 0)
    restored.restore(use.state())
    np.testing.assert_array_equal(restored.counts_K, use.counts_K)


def test_the_first_batch_initializes_a_new_codebook_with_entries_of_one_length() -> None:
    quantizer = IndexQuantizer(replace(TINY_IBQ, codebook_size=4), cpu)
    latents = np.array([[3.0, 0, 0, 0], [0, 1, 0, 0]], np.float32).T.reshape(1, 1, 4, 1, 2)
    TrainedCodebook(quantizer, 0.5, 0).update(latents, np.array([[0, 1]]), 0)
    entries = quantizer.embedding.weight.asnumpy()
    lengths = np.linalg.norm(entries, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    assert ((entries / lengths[:, None]).max(1) > 0.99).all()


def options(tmp_path: Path, **changes: Any) -> TrainVQOptions:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY_IBQ.to_dict()))
    for index in range(3):
        save_picture(tmp_path / "pictures" / f"{index}.png", index, 48, 48)
    values = {"steps": 3, "crop": 32, "batch": 2, "save_every": 2, "warmup": 2, "reader_threads": 1}
    values |= {"quantize_from": 0, "quantize_fully_from": 1, "config": str(config), "out": str(tmp_path / "out")}
    return TrainVQOptions(source=str(tmp_path / "pictures"), **{**values, **changes})


def test_a_trained_tokenizer_has_the_published_names_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_vq(options(tmp_path))
    stored = load_file(whole / "model.safetensors")
    assert {name: value.shape for name, value in stored.items()} == published_shapes(TINY_IBQ)
    codes = VisionTokenizer.from_pretrained(whole).encode_images(np.zeros((1, 16, 16, 3), np.uint8))
    assert codes.shape == (1, 4, 4)
    assert train_vq(options(tmp_path)) == whole, "nothing is left to do"
    assert load_file(whole / "model.safetensors").keys() == stored.keys()
    monkeypatch.setattr("vq_stage.training.job._run_step", step_that_changes_nothing)
    tuned = train_vq(options(tmp_path, config=None, init_from=str(whole), out=str(tmp_path / "tuned")))
    assert load_file(tuned / "model.safetensors").keys() == stored.keys()


def test_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encodes images only"):
        train_vq(options(tmp_path, clip_share=0.5))
