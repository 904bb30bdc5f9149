"""The model with the kernels for Ascend against golden data, with plain functions in the places of its operators.

What the operators of an NPU really compute is not tested here: only that the model is right if they do what their
documentation says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from lm_stage import SamplingOptions
from lm_stage.data.batch import TrainingBatch
from lm_stage.model.kernels import Heads, Kernels, ascend, cpu, select
from lm_stage.model.kernels.ascend_attention import FusedPackedAttention, PlainAttention
from shared.device import Device
from shared.errors import UsageError
from shared.tokens.visual_tokens import grid_tokens
from tests.support.ascend_operators import substitute
from tests.support.golden_language import GoldenLanguageModel
from tests.support.golden_training import TOLERANCE, batch_of, first_sequence, loss_and_gradients, train_step

LOGITS_TOLERANCE = 1e-3  # measured: 2.3e-5
HEADS = Heads(4, 2, 32)


@pytest.fixture(params=["fused", "plain"])
def attention(request: pytest.FixtureRequest) -> str:
    """Fused attention, as in half precision, and the plain attention of float32."""
    return str(request.param)


@pytest.fixture
def operators(attention: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        substitute(patch, fuses_float32=attention == "fused")
        patch.setattr("lm_stage.model.backend.select", lambda device: ascend)
        yield


def test_logits_and_greedy_images_are_those_of_upstream(operators: None, attention: str, golden_lm: Path) -> None:
    golden = GoldenLanguageModel.load(golden_lm)
    logits = golden.model.logits([*golden.prompts[0], *golden.arrays["tokens_0"]])
    np.testing.assert_allclose(logits, golden.arrays["logits_0"], atol=LOGITS_TOLERANCE, rtol=0)
    size = {"height": golden.height, "width": golden.width}
    first = golden.model.layout.first_visual_token
    for window in (1, 7) if attention == "fused" else (1,):  # a window takes the attention of the prefill
        images = golden.generate(
            golden.prompts, SamplingOptions(greedy=True), golden.guidance_scale, window=window, **size
        )
        for sample, codes_THW in enumerate(images):
            tokens = golden.arrays[f"tokens_{sample}"]
            is_visual = (tokens >= first) & (tokens < golden.model.layout.end_of_visual)
            np.testing.assert_array_equal(codes_THW.reshape(-1) + first, tokens[is_visual])


@pytest.mark.parametrize(
    "attention",
    ["fused", pytest.param("plain", marks=pytest.mark.slow)],  # norms come before attention, whatever it is
)
def test_norms_of_queries_and_keys_are_those_of_qwen3(operators: None, golden_emu35: Path) -> None:
    golden = GoldenLanguageModel.load(golden_emu35)
    logits = golden.model.logits([*golden.prompts[0], *golden.arrays["tokens_0"]])
    np.testing.assert_allclose(logits, golden.arrays["logits_0"], atol=LOGITS_TOLERANCE, rtol=0)
    size = {"height": golden.height, "width": golden.width}
    codes_BTHW = golden.generate(golden.prompts, SamplingOptions(greedy=True), golden.guidance_scale, **size)
    for sample, codes_THW in enumerate(codes_BTHW):
        body = grid_tokens(codes_THW, golden.model.layout, golden.grid_format)
        np.testing.assert_array_equal(body, golden.arrays[f"tokens_{sample}"])
    batch, training = first_sequence(golden), json.loads((golden_emu35 / "training.json").read_text())
    loss, gradients = loss_and_gradients(train_step(golden_emu35, batch.token_ids_BL.size, ascend), batch)
    assert loss == pytest.approx(training["loss_after_prompt"], rel=TOLERANCE)
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in gradients.items()}
    assert norms == pytest.approx(training["grad_norms"], rel=TOLERANCE)


@pytest.fixture(scope="module")
def expected(golden_lm: Path) -> dict[str, Any]:
    return json.loads((golden_lm / "expected.json").read_text())


@pytest.fixture(scope="module")
def sequences(golden_lm: Path) -> list[np.ndarray]:
    golden = GoldenLanguageModel.load(golden_lm)
    return [np.array([*p, *golden.arrays[f"tokens_{i}"]], np.int32) for i, p in enumerate(golden.prompts)]


def test_losses_and_gradients_are_golden(
    operators: None, golden_lm: Path, expected: dict[str, Any], sequences: list[np.ndarray]
) -> None:
    step = train_step(golden_lm, len(sequences[0]), ascend)
    batch = batch_of([[(sequences[0], len(expected["prompts"][0]))]], len(sequences[0]))
    scale = ms.Tensor(1 / batch.total_weight, ms.float32)
    loss = step._accumulate(scale, *step.batch_loss.tensors_of(batch, batch.target_bucket))
    assert float(loss) / batch.total_weight == pytest.approx(expected["loss_after_prompt"], rel=TOLERANCE)
    gradients = zip(step.optimizer.names, step.optimizer.gradients)
    norms = {name.removeprefix("decoder."): float(np.linalg.norm(one.asnumpy())) for name, one in gradients}
    assert norms == pytest.approx(expected["grad_norms"], rel=TOLERANCE)
    step.optimizer.clear()
    losses = [step.run([batch], number + 1, 1e-3).loss for number in range(10)]
    assert losses == pytest.approx(expected["train"]["losses"], rel=TOLERANCE)


def test_packed_samples_give_what_they_give_on_a_cpu(golden_lm: Path, sequences: list[np.ndarray]) -> None:
    """Rows of several samples, of one, and of padding only."""
    length = len(sequences[0]) + len(sequences[1]) + 5
    batch = batch_of([[(sequences[0], 9), (sequences[1], 9)], [(sequences[2], 9)], []], length)
    wanted = train_step(golden_lm, length, cpu).run([batch], 1, 1e-3)
    with pytest.MonkeyPatch.context() as patch:
        substitute(patch)
        found = train_step(golden_lm, length, ascend).run([batch], 1, 1e-3)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
    assert found.gradient_norm == pytest.approx(wanted.gradient_norm, rel=1e-5)


@pytest.mark.parametrize("samples", [1, 7, 8, 15, 16, 40])
def test_the_sequences_of_a_batch_are_samples_padding_and_appended_tokens(samples: int) -> None:
    batch = TrainingBatch.empty(2, 64, pad=7)
    batch.segments_BL[0, :samples] = np.arange(samples)
    attention = FusedPackedAttention(HEADS, 64)
    token_ids, positions, ends = attention.inputs(batch.token_ids_BL, batch.positions_BL, batch.segments_BL)
    lengths = np.diff(ends, prepend=0)
    assert token_ids.shape == positions.shape == (1, 2 * 64 + attention.step)
    assert (ends.dtype, ends[-1]) == (np.int64, 2 * 64 + attention.step)
    assert lengths.min() > 0
    assert len(ends) % attention.step == 0
    assert lengths[: samples + 2].tolist() == [1] * samples + [64 - samples, 64]


def test_more_sequences_than_the_operator_takes_are_refused() -> None:
    segments = np.arange(2048, dtype=np.int32).reshape(2, 1024)
    with pytest.raises(UsageError, match=r"2 × 1024 tokens has 2048 sequences.*at most 1016.*--kernels plain"):
        FusedPackedAttention(HEADS, 1024).inputs(segments, segments, segments)


def test_kernels_and_attention_are_selected_by_device_and_type() -> None:
    assert select(Device("Ascend", "bfloat16", "2.8.0", "ascend")) is ascend
    assert select(Device("Ascend", "bfloat16", "2.8.0", "cpu")) is select(Device("CPU", "float32", "2.8.0")) is cpu
    for heads, dtype in ((HEADS, ms.float32), (Heads(4, 2, 24), ms.bfloat16)):
        cells = (ascend.Attention(heads, dtype), ascend.StepAttention(heads, dtype))
        assert all(isinstance(cell, PlainAttention) for cell in (*cells, ascend.PackedAttention(heads, 64, 64, dtype)))
    assert isinstance(ascend.PackedAttention(HEADS, 64, 64, ms.bfloat16), FusedPackedAttention)


def test_both_modules_define_the_same_names() -> None:
    assert ascend.__all__ == cpu.__all__


def test_both_modules_define_every_name_of_the_protocol() -> None:
    names = {name for name in vars(Kernels) if not name.startswith("_")}
    assert len(names) > 5
    for kernels in ("cpu", "ascend"):
        assert names <= set(vars(select(Device("Ascend", "float32", ms.__version__, kernels))))
