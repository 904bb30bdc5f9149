"""The functions in the places of Ascend's operators against the examples in MindSpore's documentation, and NumPy."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from shared.device import setup_device
from tests.support import ascend_operators as reference

CAUSAL_MASK = ms.Tensor(np.triu(np.ones((2048, 2048), bool), 1))


@pytest.fixture(autouse=True)
def cpu() -> None:
    setup_device("cpu")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def attend(q_LD: np.ndarray, k_SD: np.ndarray, v_SD: np.ndarray, scale: float) -> np.ndarray:
    """Attention of one head in which the last query sees all keys, and each one before it one fewer."""
    L, S = len(q_LD), len(k_SD)
    scores = np.where(np.tri(L, S, S - L, dtype=bool), q_LD @ k_SD.T * scale, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ v_SD


def test_documented_examples() -> None:
    x, gamma = ms.Tensor([[1.0, 2, 3], [1, 2, 3]], ms.float32), ms.Tensor(np.ones(3), ms.float32)
    normed, reciprocal = reference.rms_norm(x, gamma)
    np.testing.assert_allclose(normed.asnumpy(), [[0.46290997, 0.92581993, 1.3887299]] * 2, rtol=1e-5)
    np.testing.assert_allclose(reciprocal.asnumpy(), [[0.46290997]] * 2, rtol=1e-5)
    gate_and_up = ms.Tensor([[-0.12, 0.123, 31.122], [2.1223, 4.1212121217, 0.3123]], ms.float32)
    product = reference.swiglu(gate_and_up, 0).asnumpy()
    np.testing.assert_allclose(product, [[-0.11970687, 0.2690224, 9.7194]], rtol=1e-5)


def test_rotation_turns_element_i_with_element_i_plus_half() -> None:
    x, angles = random(2, 3, 4, 8), random(1, 3, 1, 4)
    cos, sin = (np.concatenate([one, one], -1) for one in (np.cos(angles), np.sin(angles)))
    rotated = reference.rotary_position_embedding(ms.Tensor(x), ms.Tensor(cos), ms.Tensor(sin), 0).asnumpy()
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    np.testing.assert_allclose(rotated, np.concatenate([turned.real, turned.imag], -1), atol=1e-6)
    with pytest.raises(ValueError, match="half-split"):
        reference.rotary_position_embedding(ms.Tensor(x), ms.Tensor(cos), ms.Tensor(sin), 1)


def test_attention_of_sequences_one_after_another() -> None:
    q, k, v = random(7, 4, 16), random(9, 2, 16), random(9, 2, 16)
    query_ends, key_ends = np.array([3, 4, 7]), np.array([4, 6, 9])
    settings = {"next_tokens": 0, "scalar_value": 0.3, "input_layout": "TND", "sparse_mode": 3}
    ends = {"actual_seq_qlen": ms.Tensor(query_ends), "actual_seq_kvlen": ms.Tensor(key_ends)}
    tensors = [ms.Tensor(one) for one in (q, k, v)]
    found = reference.flash_attention_score(*tensors, 4, attn_mask=CAUSAL_MASK, **ends, **settings).asnumpy()
    for query_end, key_end, L, S in zip(query_ends, key_ends, (3, 1, 3), (4, 2, 3)):
        queries, keys = slice(query_end - L, query_end), slice(key_end - S, key_end)
        for head in range(4):
            wanted = attend(q[queries, head], k[keys, head // 2], v[keys, head // 2], 0.3)
            np.testing.assert_allclose(found[queries, head], wanted, atol=1e-5)


def test_attention_of_one_query_over_the_first_keys() -> None:
    q, k, v = random(2, 1, 64), random(2, 10, 32), random(2, 10, 32)
    lengths = ms.Tensor(np.array([10, 4]), ms.int64)
    settings = {"num_heads": 4, "num_key_value_heads": 2, "scale_value": 0.25}
    found = reference.incre_flash_attention(
        ms.Tensor(q), (ms.Tensor(k),), (ms.Tensor(v),), actual_seq_lengths=lengths, **settings
    ).asnumpy()
    for row, length in ((0, 10), (1, 4)):
        for head in range(4):
            query, keys = slice(16 * head, 16 * head + 16), slice(16 * (head // 2), 16 * (head // 2) + 16)
            wanted = attend(q[row, :, query], k[row, :length, keys], v[row, :length, keys], 0.25)
            np.testing.assert_allclose(found[row, :, query], wanted, atol=1e-5)


def test_additions_at_an_index() -> None:
    rows, index = random(3, 4), np.array([2, 0, 2], np.int32)
    added = reference.scatter_add(ms.Tensor(rows), 1, ms.Tensor(index.reshape(3, 1)), ms.Tensor(random(3, 1)))
    wanted = rows.copy()
    wanted[np.arange(3), index] += random(3, 1)[:, 0]
    np.testing.assert_allclose(added.asnumpy(), wanted, rtol=1e-6)
