"""The interface between a language model and the code that uses it, and our own decoder behind that interface.

Shape suffixes: R rows of a KV cache, L sequence, V vocabulary, K output range.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from lm_stage.model.candidate_step import CandidateStep
from lm_stage.model.config import DecoderConfig
from lm_stage.model.decoder import Decoder, heads_of, rotary_tables
from lm_stage.model.growing_cache import GrowingCachedDecoder
from lm_stage.model.kernels import select
from lm_stage.model.kv_cache import CachedDecoder
from lm_stage.model.weights import check_weights, load_weights
from shared.device import Device
from shared.mindone import check_backend

LENGTH_STEP = 64  # sequences and caches are padded to a multiple of it, so that few lengths are compiled


class CachedModel(Protocol):
    """A model with a KV cache of `rows` sequences, each of which starts and ends independently."""

    rows: int

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        """Fill a row with a sequence from position 0 on; its previous content is discarded."""

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        """Append L tokens to each row at successive positions; return float32 logits (R, L, K) of what follows each.

        A later step may write to the same positions again: it sees nothing of what was at or after them. Positions
        beyond the end of the cache are allowed for tokens whose logits are not used.
        """

    def candidate_step(self, guidance_scale: float, count: int) -> CandidateStep | None:
        """Return `decode_step` followed by a selection of the `count` most likely tokens; None: the host selects."""


class Backend(Protocol):
    """An implementation of the decoder."""

    config: DecoderConfig

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        """Return the float32 logits (L, V) of one sequence."""

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> CachedModel:
        """Return the model with a cache of `rows` sequences of `length` tokens.

        Its logits cover the token ids from `first_id` up to, but not including, `end_id`.
        """


class NativeBackend:
    """Our own decoder."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.config = decoder.config
        self._last_cached: weakref.ref[CachedModel] | None = None

    @classmethod
    def from_pretrained(cls, directory: str | Path, config: DecoderConfig, device: Device) -> NativeBackend:
        """Load a local checkpoint. Raises CheckpointError if its weights do not match the config."""
        decoder = Decoder(config, getattr(ms, device.dtype), select(device))
        load_weights(decoder, directory)
        decoder.set_train(False)
        return cls(decoder)

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        length = -(-len(token_ids_L) // LENGTH_STEP) * LENGTH_STEP
        padded = np.pad(token_ids_L, (0, length - len(token_ids_L)))
        dtype = self.decoder.head_weight.dtype
        cos, sin = (Tensor(table[None], dtype=dtype) for table in rotary_tables(self.config, length))
        positions = Tensor(np.arange(length)[None], ms.int32)
        return self.decoder(Tensor(padded[None]), positions, cos, sin).asnumpy()[0, : len(token_ids_L)]

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> CachedModel:
        """Return the decoder with a new cache; the memory of the last one is freed if nothing refers to it."""
        self._free_dropped_cache()
        decoder, length = self.decoder, -(-(length + 1) // LENGTH_STEP) * LENGTH_STEP
        lengths = decoder.kernels.cache_lengths(rows, heads_of(self.config), length, decoder.compute_dtype)
        first = CachedDecoder(decoder, rows, lengths[0], self._partial_head(first_id, end_id))
        cached: CachedModel = GrowingCachedDecoder(first, lengths) if len(lengths) > 1 else first
        self._last_cached = weakref.ref(cached)
        return cached

    def _partial_head(self, first_id: int, end_id: int) -> Parameter | None:
        """Return a copy of the output head for some token ids; None for all."""
        if (first_id, end_id) == (0, self.config.vocab_size):
            return None
        return Parameter(self.decoder.head_weight[first_id:end_id].copy())

    def _free_dropped_cache(self) -> None:
        """Free compiled graphs: MindSpore keeps them, with the caches they write to, after their cell is gone.

        Graphs that are still in use are compiled again when they are called.
        """
        gc.collect()
        if self._last_cached is not None and self._last_cached() is None:
            ms.ms_memory_recycle()


def load_backend(name: str, directory: str | Path, config: DecoderConfig, device: Device) -> Backend:
    """Load a checkpoint into the backend of this name.

    Raises UsageError for an unknown name, CheckpointError if the weights do not match the config, and DeviceError if
    the backend does not run on the device.
    """
    check_backend(name, device.kind)
    check_weights(directory, config)  # before memory is allocated for them
    if name == "native":
        return NativeBackend.from_pretrained(directory, config, device)
    from lm_stage.model.mindone import MindoneBackend

    return MindoneBackend.from_pretrained(directory, config, device.dtype)
