"""The language model as callers see it: token ids in, logits or codes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor

from lm_stage.inference.sampling import SamplingOptions
from lm_stage.inference.text_generator import TextGenerator
from lm_stage.inference.visual_generator import Cache, VisualGenerator, VisualRequest, check_length
from lm_stage.model.config import DecoderConfig, read_layout
from lm_stage.model.decoder import Decoder, rotary_tables
from lm_stage.model.kv_cache import CachedDecoder
from lm_stage.model.weights import load_weights
from shared.device import Device, setup_device
from shared.errors import ShapeError, UsageError
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import UNIVLA, GridFormat, checked_codes

LOGITS_STEP = 64  # sequences are padded behind their end to a multiple of it, so that few lengths are compiled
BACKENDS = ("native", "mindone")


class Backend(Protocol):
    """What a model must offer."""

    config: DecoderConfig

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        """float32 logits (L, V) of one sequence."""

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> Cache:
        """Memory for `rows` sequences of `length` tokens, and logits of the ids from `first_id` to `end_id`."""


class NativeBackend:
    """Our own decoder."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.config = decoder.config

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        length = -(-len(token_ids_L) // LOGITS_STEP) * LOGITS_STEP
        padded = np.pad(token_ids_L, (0, length - len(token_ids_L)))
        dtype = self.decoder.head_weight.dtype
        cos, sin = (Tensor(table, dtype=dtype) for table in rotary_tables(self.config, length))
        return self.decoder(Tensor(padded[None]), cos, sin).asnumpy()[0, : len(token_ids_L)]

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> Cache:
        return CachedDecoder(self.decoder, rows, length, first_id, end_id)


class LanguageModel:
    """A decoder with its token layout. Build it with `from_pretrained`."""

    def __init__(self, backend: Backend, layout: TokenLayout, device: Device):
        self.backend = backend
        self.config = backend.config
        self.layout = layout
        self.device = device

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: str = "auto",
        dtype: str | None = None,
        layout: Mapping[str, Any] | TokenLayout | None = None,
        backend: str = "native",
    ) -> LanguageModel:
        """Loads a local directory with `config.json` and safetensors, of BAAI's or Hugging Face's naming.

        The token layout comes from the checkpoint unless `layout` gives its ids by name. dtype defaults to bfloat16
        on Ascend and float32 on CPU. Raises CheckpointError if weights, config and layout do not fit each other,
        DeviceError if the device is not there.
        """
        config = DecoderConfig.from_directory(directory)
        if isinstance(layout, TokenLayout):
            chosen_layout = layout
        else:
            chosen_layout = TokenLayout.from_mapping(layout) if layout else read_layout(directory)
        chosen_layout.check_vocabulary(config.vocab_size, str(directory))
        chosen = setup_device(device, dtype, ascend_dtype="bfloat16")
        if backend == "native":
            decoder = Decoder(config, getattr(ms, chosen.dtype), chosen.has_fused_attention)
            load_weights(decoder, directory)
            decoder.set_train(False)
            return cls(NativeBackend(decoder), chosen_layout, chosen)
        if backend == "mindone":
            from lm_stage.model.mindone import MindoneBackend

            return cls(MindoneBackend.from_pretrained(directory, config, chosen), chosen_layout, chosen)
        raise UsageError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")

    def logits(self, token_ids_L: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 logits (L, V) of the token after each. Raises ShapeError for ids outside the vocabulary."""
        ids = np.asarray(token_ids_L, np.int32)
        if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ShapeError(f"token ids: expected one sequence of ids in [0, {self.config.vocab_size})")
        check_length(len(ids), self.config.max_position_embeddings)
        return self.backend.logits(ids)

    def visual_generator(
        self, batch_size: int, length: int, sampling: SamplingOptions, guidance_scale: float = 1.0
    ) -> VisualGenerator:
        """For `batch_size` images or videos at once, prompt and body of at most `length` tokens.

        Raises UsageError if the model has fewer positions.
        """
        check_length(length, self.config.max_position_embeddings)
        rows = batch_size if guidance_scale == 1.0 else 2 * batch_size
        cache = self.backend.cached(rows, length, self.layout.first_visual_token, self.layout.end_of_visual)
        return VisualGenerator(cache, self.layout, sampling, guidance_scale)

    def text_generator(self, batch_size: int, length: int, sampling: SamplingOptions) -> TextGenerator:
        """For `batch_size` answers at once, question and answer of at most `length` tokens.

        Raises UsageError if the model has fewer positions.
        """
        check_length(length, self.config.max_position_embeddings)
        cache = self.backend.cached(batch_size, length, 0, self.layout.first_visual_token)
        return TextGenerator(cache, self.layout, sampling)

    def generate_images(
        self,
        prompts: Sequence[Sequence[int]],
        height: int,
        width: int,
        negative_prompt: Sequence[int] | None = None,
        guidance_scale: float = 3.0,
        sampling: SamplingOptions | None = None,
        seed: int = 0,
        batch: int = 16,
    ) -> np.ndarray:
        """uint16 codes (B, H, W) for prompts of token ids up to and with IMG, `batch` at a time.

        Sampling defaults to upstream's, top-k 2048 at temperature 1, the negative prompt to each prompt without its
        caption. The noise of prompt i is keyed (seed, i).
        Raises UsageError if a prompt is empty, does not end in IMG, or does not fit the model's positions.
        """
        requests = [
            VisualRequest(str(index), prompt, negative, height, width, seed)
            for index, (prompt, negative) in enumerate(self._with_negatives(prompts, negative_prompt))
        ]
        codes = self._written(requests, sampling or SamplingOptions(), guidance_scale, batch)
        return np.array([grid_THW[0] for grid_THW in codes], np.uint16).reshape(-1, height, width)

    def generate_videos(
        self,
        prompts: Sequence[Sequence[int]],
        frames: int,
        height: int,
        width: int,
        beginnings_BTHW: np.ndarray | None = None,
        template: GridFormat = UNIVLA,
        negative_prompt: Sequence[int] | None = None,
        guidance_scale: float = 3.0,
        sampling: SamplingOptions | None = None,
        seed: int = 0,
        batch: int = 16,
    ) -> np.ndarray:
        """uint16 codes (B, T, H, W), otherwise as `generate_images`; a beginning is kept and gone on with.

        Raises ShapeError if beginnings are not codes of B clips of fewer frames and this size.
        """
        given = self._given(beginnings_BTHW, (len(prompts), frames, height, width))
        requests = [
            VisualRequest(
                *(str(index), prompt, negative, height, width, seed),
                frames=frames,
                template=template,
                given=given[index],
            )
            for index, (prompt, negative) in enumerate(self._with_negatives(prompts, negative_prompt))
        ]
        codes = self._written(requests, sampling or SamplingOptions(), guidance_scale, batch)
        return np.array(codes, np.uint16).reshape(-1, frames, height, width)

    def _given(self, beginnings_BTHW: np.ndarray | None, shape_BTHW: tuple[int, int, int, int]) -> list[list[int]]:
        """Codes of every beginning, of none without. Raises ShapeError if they do not fit videos of this shape."""
        if beginnings_BTHW is None:
            return [[]] * shape_BTHW[0]
        codes = checked_codes(beginnings_BTHW, 4, self.layout)
        if codes.shape[0] != shape_BTHW[0] or codes.shape[1] >= shape_BTHW[1] or codes.shape[2:] != shape_BTHW[2:]:
            raise ShapeError(f"beginnings: expected {shape_BTHW} with fewer frames, got {codes.shape}")
        return [clip.reshape(-1).tolist() for clip in codes]

    def _with_negatives(
        self, prompts: Sequence[Sequence[int]], negative_prompt: Sequence[int] | None
    ) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        for index, prompt in enumerate(prompts):
            negative = self.without_caption(prompt) if negative_prompt is None else negative_prompt
            for ids in (prompt, negative):
                if len(ids) == 0 or ids[-1] != self.layout.img:
                    raise UsageError(f"prompt {index}: expected token ids that end with IMG ({self.layout.img})")
            yield prompt, negative

    def _written(
        self, requests: Sequence[VisualRequest], sampling: SamplingOptions, guidance_scale: float, batch: int
    ) -> list[np.ndarray]:
        """Codes (T, H, W) of requests whose keys are their numbers."""
        if not requests:
            return []
        length = max(request.length for request in requests)
        generator = self.visual_generator(min(batch, len(requests)), length, sampling, guidance_scale)
        waiting, codes = list(requests[::-1]), {}
        while waiting or generator.running:
            while waiting and not generator.is_full:
                generator.add(waiting.pop())
            for slot in generator.step():
                codes[int(slot.request.key)] = slot.codes_THW()
        return [codes[number] for number in range(len(requests))]

    def without_caption(self, prompt: Sequence[int]) -> list[int]:
        """A text-to-image or text-to-video prompt with its caption left out: BOS BOI size IMG."""
        ids = [int(token) for token in prompt]
        if self.layout.boi not in ids:
            raise UsageError(f"prompt: expected BOI ({self.layout.boi}) before the size; or give a negative prompt")
        return [self.layout.bos, *ids[len(ids) - 1 - ids[::-1].index(self.layout.boi) :]]
