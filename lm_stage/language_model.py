"""The language model as callers see it: text or token ids in, logits or codes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.inference.answer_generator import AnswerGenerator
from lm_stage.inference.options import InferenceOptions, SamplingOptions
from lm_stage.inference.requests import ImageRequest, VideoRequest
from lm_stage.inference.text_generator import TextGenerator
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.model.backend import Backend, load_backend
from lm_stage.model.codec import NO_VIDEO_MESSAGE, read_codec
from lm_stage.model.config import DecoderConfig, read_layout
from lm_stage.model.model_directory import ModelDirectory, model_path
from lm_stage.model.prompting_choice import choose_prompting
from lm_stage.text.answer_grammar import AnswerGrammar
from lm_stage.text.prompting import AUTO, PLAIN, Prompting, check_prompting
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.tokenizer import JSON_FILE, RANKS_FILE, TextTokenizer, load_text_tokenizer
from shared.codec import code_dtype
from shared.device import Device, setup_device
from shared.errors import CheckpointError, ShapeError, UsageError
from shared.mindone import check_backend
from shared.tokens.grid_formats import GridFormat
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import checked_codes


class LanguageModel:
    """A decoder with its token layout and text tokenizer. Build it with `from_pretrained`."""

    def __init__(
        self, backend: Backend, layout: TokenLayout, device: Device, directory: Path, prompting: Prompting = PLAIN
    ):
        self.backend = backend
        self.config = backend.config
        self.layout = layout
        self.device = device
        self.directory = directory
        self.prompting = prompting

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: str = "auto",
        dtype: str | None = None,
        layout: Mapping[str, Any] | TokenLayout | None = None,
        backend: str = "native",
        kernels: str = "auto",
        prompting: str = AUTO,
    ) -> LanguageModel:
        """Load a local directory with `config.json` and safetensors, in BAAI's or Hugging Face's naming.

        The token layout comes from the checkpoint unless `layout` gives its ids by name. dtype defaults to bfloat16
        on Ascend and float32 on CPU; `kernels` is auto, or plain for the CPU's kernels on any device. `prompting` is
        auto for that of the model, plain, emu3 or emu35.
        Raises CheckpointError if weights, config and layout do not match each other, DeviceError if the device is not
        available.
        """
        directory = model_path(directory)
        config = DecoderConfig.from_directory(directory)
        if layout is None:
            layout = read_layout(directory)
        elif not isinstance(layout, TokenLayout):
            layout = TokenLayout.from_mapping(layout)
        check_prompting(prompting)
        vocabulary = partial(_vocabulary_layout, directory)
        prompts, layout = choose_prompting(prompting, layout, config.qk_norm, vocabulary, directory)
        layout.check_vocabulary(config.vocab_size, str(directory))
        chosen = setup_device(device, dtype, "bfloat16", kernels)
        check_backend(backend, chosen.kind, kernels)
        return cls(load_backend(backend, directory, config, chosen), layout, chosen, directory, prompts)

    @classmethod
    def for_job(cls, model: ModelDirectory, options: InferenceOptions) -> LanguageModel:
        """Load the weights of a directory that a worker has opened, which verified its checksums."""
        device = setup_device(options.device, options.dtype, "bfloat16", options.kernels)
        backend = load_backend(options.backend, model.path, model.config, device)
        return cls(backend, model.layout, device, model.path, model.prompting)

    @cached_property
    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer of the checkpoint, loaded on first use: token ids alone do not need it.

        Raises CheckpointError if the directory has none, or one of another layout.
        """
        tokenizer = load_text_tokenizer(self.directory)
        if not tokenizer.layout.agrees_with(self.layout):
            raise CheckpointError(f"{self.directory}: the text tokenizer has a different token layout than the model")
        return tokenizer

    @property
    def _code_dtype(self) -> str:
        return code_dtype(self.layout.codebook_size)

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text; the surface forms of control tokens are encoded as text."""
        return self.text_tokenizer.encode(text)

    def decode_text(self, token_ids: Iterable[int]) -> str:
        """Return the text of token ids, without control and visual tokens."""
        return self.text_tokenizer.decode(token_ids)

    def logits(self, token_ids_L: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 logits (L, V) of the token after each. Raises ShapeError for ids outside the vocabulary."""
        ids = np.asarray(token_ids_L, np.int32)
        if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ShapeError(f"token ids: expected one sequence of ids in [0, {self.config.vocab_size})")
        self._check_length(len(ids))
        return self.backend.logits(ids)

    def generate_images(self, request: ImageRequest) -> np.ndarray:
        """Generate an image for each prompt; return codes (B, H, W) for `VisionTokenizer.decode_images`.

        Raises UsageError if a prompt and its image need more positions than the model has.
        """
        grid_format = self.prompting.image_format
        codes = self._generate(request, grid_format, [()] * len(request.prompts), frames=1)
        images = [codes_THW[0] for codes_THW in codes]
        return np.array(images, self._code_dtype).reshape(-1, request.height, request.width)

    def generate_videos(self, request: VideoRequest) -> np.ndarray:
        """Generate a video for each prompt; return codes (B, T, H, W).

        `VisionTokenizer.decode_video` takes the codes of one of them.

        Raises UsageError as `generate_images` does, and if the codec of the model has images only; ShapeError if the
        prefix is not a clip of fewer frames and of this size for each prompt.
        """
        if not read_codec(self.directory, self.layout).supports_video:
            raise UsageError(f"{self.directory}: cannot generate videos: {NO_VIDEO_MESSAGE}")
        codes = self._generate(request, request.grid_format, self._prefixes(request), request.frames)
        return np.array(codes, self._code_dtype).reshape(-1, request.frames, request.height, request.width)

    def _generate(
        self, request: ImageRequest, grid_format: GridFormat, prefixes: Sequence[Sequence[int]], frames: int
    ) -> list[np.ndarray]:
        prompting = self.prompting
        renderer = SequenceRenderer(self.text_tokenizer, self.layout, prompting=prompting)
        size = (frames, request.height, request.width)
        negative = [request.negative_prompt]
        negative_ids = renderer.generation_prompt(negative, grid_format, *size, prompting.unconditional).tolist()
        requests = [
            VisualRequest(
                key=str(index),
                prompt_ids=renderer.generation_prompt([prompt], grid_format, *size).tolist(),
                negative_ids=negative_ids,
                height=request.height,
                width=request.width,
                seed=request.seed,
                frames=frames,
                grid_format=grid_format,
                prefix_codes=prefix,
            )
            for index, (prompt, prefix) in enumerate(zip(request.prompts, prefixes))
        ]
        guidance_scale = prompting.text_to_image_guidance if request.guidance_scale is None else request.guidance_scale
        return self.generate_codes(requests, request.sampling, guidance_scale, request.batch_size, request.window)

    def _prefixes(self, request: VideoRequest) -> list[Sequence[int]]:
        """Return the flat codes of each prefix, empty without one."""
        if request.prefix_codes_BTHW is None:
            return [()] * len(request.prompts)
        codes = checked_codes(request.prefix_codes_BTHW, 4, self.layout)
        clips, frames, *size = codes.shape
        if clips != len(request.prompts) or frames >= request.frames or size != [request.height, request.width]:
            expected = f"({len(request.prompts)}, fewer than {request.frames}, {request.height}, {request.width})"
            raise ShapeError(f"prefix_codes_BTHW: expected shape {expected}, got {codes.shape}")
        return [clip.reshape(-1).tolist() for clip in codes]

    def generate_codes(
        self,
        requests: Sequence[VisualRequest],
        sampling: SamplingOptions,
        guidance_scale: float = 1.0,
        batch_size: int = 16,
        window: int = 1,
    ) -> list[np.ndarray]:
        """Generate from prompts of token ids; return codes (T, H, W), in the order of the requests.

        Keys must be unique. What is None in `sampling` is what upstream published for single images. Raises UsageError
        if a prompt does not end with IMG or needs more positions than the model has, or if guidance lacks a negative
        prompt.
        """
        if not requests:
            return []
        for request in requests:
            if guidance_scale != 1.0 and request.negative_ids is None:
                raise UsageError(f"prompt {request.key}: expected negative_ids for guidance_scale {guidance_scale}")
            for token_ids in (request.prompt_ids, request.negative_ids or request.prompt_ids):
                if not token_ids or token_ids[-1] != self.layout.img:
                    raise UsageError(f"prompt {request.key}: expected token ids that end with IMG ({self.layout.img})")
        length = max(request.length for request in requests)
        sampling = sampling.resolved(self.prompting.codes)
        generator = self.visual_generator(min(batch_size, len(requests)), length, sampling, guidance_scale, window)
        codes = {sequence.request.key: sequence.codes_THW() for sequence in generator.run(requests)}
        return [codes[request.key] for request in requests]

    def visual_generator(
        self,
        batch_size: int,
        length: int,
        sampling: SamplingOptions,
        guidance_scale: float = 1.0,
        window: int = 1,
    ) -> VisualGenerator:
        """Return a generator of `batch_size` images or videos at a time, of at most `length` tokens with the prompt.

        `sampling` must be resolved: what upstream published depends on the task. Raises UsageError if the model has
        fewer positions.
        """
        self._check_length(length)
        rows = batch_size if guidance_scale == 1.0 else 2 * batch_size
        model = self.backend.cached(rows, length, self.layout.first_visual_token, self.layout.end_of_visual)
        return VisualGenerator(model, self.layout, sampling, guidance_scale, window)

    def text_generator(self, batch_size: int, length: int, sampling: SamplingOptions) -> TextGenerator:
        """Return a generator of `batch_size` answers at a time, of at most `length` tokens with the question.

        `sampling` must be resolved. Raises UsageError if the model has fewer positions.
        """
        self._check_length(length)
        model = self.backend.cached(batch_size, length, 0, self.layout.first_visual_token)
        return TextGenerator(model, self.layout, sampling, self.prompting.answer_end[0])

    def answer_generator(
        self,
        batch_size: int,
        length: int,
        sampling: SamplingOptions,
        text_sampling: SamplingOptions,
        guidance_scale: float = 1.0,
    ) -> AnswerGenerator:
        """Return a generator of `batch_size` answers of text and images, of at most `length` tokens with the prompt.

        `sampling`, that of codes, and `text_sampling` must be resolved. Raises UsageError if the model has fewer
        positions, CheckpointError if its vocabulary does not write sizes digit by digit.
        """
        self._check_length(length)
        grammar = AnswerGrammar.of(SequenceRenderer(self.text_tokenizer, self.layout, prompting=self.prompting))
        rows = batch_size if guidance_scale == 1.0 else 2 * batch_size
        model = self.backend.cached(rows, length, 0, self.config.vocab_size)
        return AnswerGenerator(model, grammar, sampling, text_sampling, guidance_scale)

    def _check_length(self, length: int) -> None:
        positions = self.config.max_position_embeddings
        if length > positions:
            raise UsageError(
                f"the sequence takes {length} tokens, the model has {positions} positions; shorten the prompt or"
                " request a smaller image"
            )


def _vocabulary_layout(directory: Path) -> TokenLayout | None:
    """Return the layout of a text vocabulary; None if the directory has none, which token ids alone do not need."""
    has_one = any((directory / name).is_file() for name in (RANKS_FILE, JSON_FILE))
    return load_text_tokenizer(directory).layout if has_one else None
