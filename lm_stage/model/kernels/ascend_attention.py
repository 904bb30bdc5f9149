"""Attention on Ascend: fused operators in half precision, plain products in float32. See ascend.py for what was tested.

Shape suffixes: see the package; T tokens of a packed batch.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from lm_stage.model.kernels import Heads, PackedInputs, cpu_attention
from shared.errors import UsageError

FUSED_DTYPES = (ms.float16, ms.bfloat16)  # those that the fused operators document
SIZE_MULTIPLE, MAX_SIZE = 16, 512  # of a head
MAX_SEQUENCES = 1024  # in one call over packed samples
CAUSAL_MASK_SIZE = 2048  # the side of the compressed causal mask, whatever the length of the sequences
CAUSAL_FROM_THE_END = 3  # the sparse mode in which the last query of each sequence sees all of its keys
MAX_TOKENS = 2147483647


def is_fused(heads: Heads, dtype: ms.Type) -> bool:
    return dtype in FUSED_DTYPES and heads.D % SIZE_MULTIPLE == 0 and heads.D <= MAX_SIZE


def Attention(heads: Heads, dtype: ms.Type) -> nn.Cell:
    return FusedAttention(heads) if is_fused(heads, dtype) else PlainAttention(cpu_attention.Attention(heads, dtype))


def StepAttention(heads: Heads, dtype: ms.Type) -> nn.Cell:
    if is_fused(heads, dtype):
        return FusedStepAttention(heads)
    return PlainAttention(cpu_attention.StepAttention(heads, dtype))


def PackedAttention(heads: Heads, length: int, max_segment_length: int, dtype: ms.Type) -> nn.Cell:
    if is_fused(heads, dtype):
        return FusedPackedAttention(heads, length)
    return PlainPackedAttention(cpu_attention.PackedAttention(heads, length, max_segment_length, dtype))


class PlainAttention(nn.Cell):
    """Attention by the plain operators of the CPU's kernels, in the layout of Ascend's."""

    def __init__(self, attention: nn.Cell):
        super().__init__()
        self.attention = attention
        self.mask = attention.mask

    def construct(self, q_BLND: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Tensor | tuple[Tensor, ...]) -> Tensor:
        return self.attention(q_BLND.swapaxes(1, 2), k_BSGD.swapaxes(1, 2), v_BSGD.swapaxes(1, 2), mask)


class PlainPackedAttention(PlainAttention):
    """The same for packed samples."""

    def inputs(self, token_ids_BL: np.ndarray, positions_BL: np.ndarray, segments_BL: np.ndarray) -> PackedInputs:
        return self.attention.inputs(token_ids_BL, positions_BL, segments_BL)


class FusedAttention(nn.Cell):
    """Attention of queries to the keys up to their positions."""

    def __init__(self, heads: Heads):
        super().__init__()
        self.N, self.scale = heads.N, heads.D**-0.5

    def mask(self, positions_BL: Tensor, key_positions_S: Tensor) -> Tensor:
        """Return the mask of all layers (B, 1, L, S), True at hidden keys."""
        B, L = positions_BL.shape
        return key_positions_S.reshape(1, 1, 1, -1) > positions_BL.reshape(B, 1, L, 1)

    def construct(self, q_BLND: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask_B1LS: Tensor) -> Tensor:
        """Return the outputs (B, L, N·D)."""
        B, L = q_BLND.shape[:2]
        attended_BLND = ops.flash_attention_score(
            q_BLND, k_BSGD, v_BSGD, self.N, attn_mask=mask_B1LS, scalar_value=self.scale, input_layout="BSND"
        )
        return attended_BLND.reshape(B, L, -1)


class FusedStepAttention(nn.Cell):
    """Attention of one query for each row of a cache; keys beyond the length of a row are not read."""

    def __init__(self, heads: Heads):
        super().__init__()
        self.N, self.G, self.scale = heads.N, heads.G, heads.D**-0.5

    def mask(self, lengths_R: Tensor, key_positions_S: Tensor) -> Tensor:
        """Return the lengths themselves."""
        return lengths_R

    def construct(self, q_RLND: Tensor, k_RSGD: Tensor, v_RSGD: Tensor, lengths_R: Tensor) -> Tensor:
        """Return the outputs (R, 1, N·D)."""
        R, S = k_RSGD.shape[:2]
        return ops.incre_flash_attention(
            q_RLND.reshape(R, 1, -1),
            (k_RSGD.reshape(R, S, -1),),
            (v_RSGD.reshape(R, S, -1),),
            actual_seq_lengths=lengths_R,
            num_heads=self.N,
            input_layout="BSH",
            scale_value=self.scale,
            num_key_value_heads=self.G,
        )


class FusedPackedAttention(nn.Cell):
    """Causal attention within samples, by one call over all tokens of a batch."""

    def __init__(self, heads: Heads, length: int):
        super().__init__()
        self.N, self.scale = heads.N, heads.D**-0.5
        self.step = max(8, length // 128)
        size = (CAUSAL_MASK_SIZE, CAUSAL_MASK_SIZE)
        self.is_future = Tensor(np.triu(np.ones(size, np.bool_), 1))

    def inputs(self, token_ids_BL: np.ndarray, positions_BL: np.ndarray, segments_BL: np.ndarray) -> PackedInputs:
        """Return all rows as one, and the ends (int64) of their sequences: samples, and what pads each row.

        Graphs are compiled for a number of sequences, so the number is a multiple of `step`: as many tokens are
        appended, and those that are not needed to fill up the number of sequences form the last one.
        """
        B, L = segments_BL.shape
        is_last = np.ones((B, L), bool)
        is_last[:, :-1] = segments_BL[:, :-1] != segments_BL[:, 1:]
        ends = np.flatnonzero(is_last) + 1
        appended = self.step - len(ends) % self.step
        if len(ends) + appended > MAX_SEQUENCES:
            raise UsageError(
                f"a batch of {B} × {L} tokens has {len(ends)} sequences, the fused attention takes at most"
                f" {MAX_SEQUENCES - self.step}; use a smaller --micro-batch-size or --seq-length, or --kernels plain"
            )
        ends = np.append(ends, B * L + np.arange(1, appended + 1)).astype(np.int64)
        ends[-1] = B * L + self.step
        padding = (0, 0), (0, self.step)
        return np.pad(token_ids_BL.reshape(1, -1), padding), np.pad(positions_BL.reshape(1, -1), padding), ends

    def mask(self, ends: Tensor) -> Tensor:
        """Return the ends themselves."""
        return ends

    def construct(self, q_BLND: Tensor, k_BLGD: Tensor, v_BLGD: Tensor, ends: Tensor) -> Tensor:
        """Return the outputs (1, T, N·D)."""
        _, T, _, D = q_BLND.shape
        attended_TND = ops.flash_attention_score(
            q_BLND.reshape(T, -1, D),
            k_BLGD.reshape(T, -1, D),
            v_BLGD.reshape(T, -1, D),
            self.N,
            attn_mask=self.is_future,
            actual_seq_qlen=ends,
            actual_seq_kvlen=ends,
            scalar_value=self.scale,
            pre_tokens=MAX_TOKENS,
            next_tokens=0,
            input_layout="TND",
            sparse_mode=CAUSAL_FROM_THE_END,
        )
        return attended_TND.reshape(1, T, -1)
