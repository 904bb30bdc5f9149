"""Layers with answers that can be computed by hand."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from shared.device import setup_device
from vq_stage.model.kernels import cpu
from vq_stage.model.layers import Attention, FrozenBatchNorm, repeat_frames

setup_device("cpu")


def test_repeat_frames_keeps_copies_together() -> None:
    x_BTCHW = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1, 1)
    repeated = repeat_frames(Tensor(x_BTCHW), 2).asnumpy()
    assert repeated.shape == (2, 4, 1, 1, 1)
    assert repeated.reshape(2, 4).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_frozen_batch_norm_uses_the_stored_statistics() -> None:
    norm = FrozenBatchNorm(1)
    for parameter, value in ((norm.running_mean, 3.0), (norm.running_var, 4.0), (norm.weight, 2.0), (norm.bias, 1.0)):
        parameter.set_data(Tensor([value]))
    y = norm(Tensor(np.full((1, 1, 1, 1, 1), 7.0, np.float32))).asnumpy()
    np.testing.assert_allclose(y, 2 * (7 - 3) / 2 + 1, rtol=1e-5)


def test_attention_without_queries_averages_the_values() -> None:
    attention = Attention(cpu, 2)
    for projection in (attention.v_proj, attention.out_proj):
        projection.weight.set_data(Tensor(np.eye(2, dtype=np.float32)))
    x_BCHW = np.array([[[[1, 3]], [[10, 30]]]], np.float32)
    np.testing.assert_allclose(attention(Tensor(x_BCHW)).asnumpy(), [[[[2, 2]], [[20, 20]]]], rtol=1e-6)
