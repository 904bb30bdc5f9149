"""Rows of tables, and parts of tensors, on Ascend. See ascend.py for what has been tested.

Shape suffixes: V rows, C columns.
"""

from __future__ import annotations

from mindspore import Tensor, ops
from mindspore.ops.auto_generate import SplitTensor

split_tensor = SplitTensor()


def look_up(table_VC: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table; the gradient is `EmbeddingDenseBackward`."""
    return ops.embedding(ids, table_VC)


def split(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Parts of `size` elements along the first axis; the last may be smaller."""
    return split_tensor(x, size, 0)
