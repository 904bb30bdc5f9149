"""mindone's `Emu3ForCausalLM` behind the interface of our decoder: a second opinion for owners of an NPU.

Shape suffixes: B batch (always 1), R rows, L sequence, K output range, V vocabulary.
mindone 0.5 keeps the Hugging Face parameter names, so the weights need no renaming.
Nothing here has run on an NPU yet; the tests run it on CPU with substitutes for the kernels CPU lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mindspore as ms
import numpy as np
from mindspore import Tensor

from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import load_weights
from shared.errors import CheckpointError, UsageError
from shared.mindone import importing_mindone

if TYPE_CHECKING:
    from mindone.transformers.cache_utils import DynamicCache
    from mindone.transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM


class MindoneBackend:
    """mindone's model as a Backend of LanguageModel. Build it with `from_pretrained`."""

    def __init__(self, model: Emu3ForCausalLM, config: DecoderConfig):
        self.model = model
        self.config = config

    @classmethod
    def from_pretrained(cls, directory: str | Path, config: DecoderConfig, dtype: str) -> MindoneBackend:
        """Load a local checkpoint of BAAI's or Hugging Face's naming into mindone's model.

        Raises DeviceError if mindone cannot be imported, CheckpointError if weights and config do not fit. The device
        is not checked: if it lacks a kernel, MindSpore raises RuntimeError when the model runs.
        """
        model = build_emu3(config)
        # Not model.to(): in MindSpore 2.10 that is Cell.to, which crashes the process on parameters without data and
        # would cast the rotary frequencies too.
        for parameter in model.get_parameters():
            parameter.set_dtype(getattr(ms, dtype))
        load_weights(model, directory)
        return cls(model, config)

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        """Return float32 logits (L, V) of one sequence."""
        logits_BLV = self.model(Tensor(token_ids_L[None], ms.int32), use_cache=False).logits
        return logits_BLV[0].astype(ms.float32).asnumpy()

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> MindoneCache:
        """Return a cache for `rows` sequences; it grows with them, so `length` is not used."""
        return MindoneCache(self.model, rows, first_id, end_id)


class MindoneCache:
    """mindone's `DynamicCache`, one per row, with the interface of CachedDecoder.

    It is made for comparison, not for speed: every row, even an idle one, has its own forward pass, which copies the
    row's keys and values; the output head computes the whole vocabulary, of which the range [first_id, end_id) is kept;
    and attention is not fused, so the attention weights of a whole prompt are in memory at once.
    """

    def __init__(self, model: Emu3ForCausalLM, rows: int, first_id: int, end_id: int):
        self.model = model
        self.rows = rows
        self.first_id, self.end_id = first_id, end_id
        self.caches: list[DynamicCache | None] = [None] * rows

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        """Fill a row with a sequence from position 0 on, replacing its content."""
        from mindone.transformers.cache_utils import DynamicCache

        cache = self.caches[row] = DynamicCache()
        if len(token_ids):
            self._append(cache, token_ids)

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        """Write one token per row (L = 1) at its position; return float32 logits (R, 1, K) of the next tokens.

        A row that was never filled is skipped, and its logits are 0. Raises ValueError for a position beyond the end
        of a row's tokens, UsageError for more tokens than one.
        """
        if token_ids_RL.shape[1] != 1:
            raise UsageError(f"window {token_ids_RL.shape[1]}: the backend mindone decodes one token at a time")
        logits_RLK = np.zeros((*token_ids_RL.shape, self.end_id - self.first_id), np.float32)
        for row, cache in enumerate(self.caches):
            if cache is not None:
                position, length = int(positions_RL[row, 0]), cache.get_seq_length()
                if position > length:
                    raise ValueError(f"row {row}: expected a position up to {length}, got {position}")
                cache.crop(position)  # mindone only appends, so tokens from the position on must be removed
                logits_RLK[row] = self._append(cache, token_ids_RL[row])
        return logits_RLK

    def candidate_step(self, guidance_scale: float, count: int) -> None:
        """Return None: the host selects."""

    def _append(self, cache: DynamicCache, token_ids_L: Sequence[int] | np.ndarray) -> np.ndarray:
        """Run tokens at the end of a row; return float32 logits (K,) of the token after the last."""
        ids = Tensor(np.asarray(token_ids_L, np.int32)[None])
        logits_BLV = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits_BLV[0, -1, self.first_id : self.end_id].astype(ms.float32).asnumpy()


def build_emu3(config: DecoderConfig) -> Emu3ForCausalLM:
    """Return mindone's model in inference mode, its weights not set.

    Raises DeviceError if mindone is not installed, CheckpointError for a model that its Emu3 does not compute.
    """
    if config.qk_norm:
        raise CheckpointError("mindone's Emu3 has no norms of queries and keys, this model has; use --backend native")
    with importing_mindone():
        from mindone.transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM
        from mindspore.nn.utils import no_init_parameters  # deprecated since MindSpore 2.9
        from transformers import Emu3TextConfig
    # The default padding id is that of the published vocabulary; mindone requires it to lie within the model's.
    settings = {**config.to_dict(), "pad_token_id": None}
    with no_init_parameters():  # random weights take 5 s for every 100 million parameters, and would be overwritten
        return Emu3ForCausalLM(Emu3TextConfig(**settings, attn_implementation="eager")).set_train(False)
