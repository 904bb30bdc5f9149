"""Selection of the most likely tokens on Ascend. See ascend.py for what has been tested.

Shape suffixes: M logits of all rows, K output range, P positions of all sequences, k candidates.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import TopkExt

from lm_stage.model.kernels.ascend_rows import split

top_k, _all = TopkExt(), ops.ReduceAll()


class Candidates(nn.Cell):
    """The `count` largest logits of each position after guidance, in descending order."""

    def __init__(self, guidance_scale: float, count: int):
        super().__init__()
        self.guidance_scale, self.count = guidance_scale, count

    @ms.jit(jit_level="O0")
    def construct(self, logits_MK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (P, k), int32 tokens (P, k), and whether all logits of a position are finite (P,)."""
        logits_PK = logits_MK
        if self.guidance_scale != 1.0:
            cond_PK, uncond_PK = split(logits_MK, logits_MK.shape[0] // 2)
            logits_PK = uncond_PK + self.guidance_scale * (cond_PK - uncond_PK)
        logits_Pk, tokens_Pk = top_k(logits_PK, self.count, -1, True, True)
        return logits_Pk, tokens_Pk.astype(ms.int32), _all(ops.isfinite(logits_PK), 1)
