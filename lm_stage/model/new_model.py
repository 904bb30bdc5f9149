"""Creates a small language model with random weights and a vocabulary trained on the captions of a codes dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from lm_stage.model.checksums import write_model_directory
from lm_stage.model.codec import codec_keys
from lm_stage.model.config import DecoderConfig
from lm_stage.model.options import NewModelOptions
from lm_stage.model.safetensors_writer import array_tensor
from lm_stage.model.saved_model import saved_model_files
from lm_stage.model.weights import parameter_shapes
from lm_stage.text.prompting import PROMPTINGS
from lm_stage.text.templates import DEFAULT_QUESTION
from lm_stage.text.tokenizer import JSON_FILE
from lm_stage.text.training import TrainedVocabulary, train_text_tokenizer
from shared.dataset.dataset import Dataset
from shared.dataset.readers import RowReader
from shared.errors import UsageError
from shared.storage.paths import check_link

TEMPLATE_REPEATS = 50  # makes the words of the template frequent enough to become single tokens
WEIGHT_DEVIATION = 0.02
ROPE_THETA = 10_000.0


def create_model(options: NewModelOptions) -> Path:
    """Write `config.json`, `tokenizer.json` and `model.safetensors`; return the directory.

    Raises UsageError if the directory is not empty, or if the dataset has no captions.
    """
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: not an empty directory; give a new one")
    check_link(out)
    dataset = Dataset.open(options.dataset)
    rows = RowReader(dataset)
    codec = dataset.plan().settings.codec
    vocabulary = _train_vocabulary(options, rows, codec.codebook_size)
    shape = decoder_config(options, vocabulary.vocab_size)
    (_, height, width), _ = Counter(map(tuple, rows.shapes_THW().tolist())).most_common(1)[0]
    config = {
        **shape.to_dict(),
        "token_layout": vocabulary.layout.to_dict(),
        **codec_keys(codec),
        "image_area": height * width * codec.spatial_factor**2,
    }
    weights = {name: array_tensor(values) for name, values in random_weights(shape, options.seed).items()}
    files = saved_model_files(weights, config, vocabulary.layout, {JSON_FILE: vocabulary.tokenizer_json.encode()})
    write_model_directory(out, files)
    return out


def decoder_config(options: NewModelOptions, vocab_size: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.positions,
        rope_theta=ROPE_THETA,
        tie_word_embeddings=options.tied,
        head_dim=options.head_dim or 0,
        qk_norm=options.qk_norm,
    )


def _train_vocabulary(options: NewModelOptions, rows: RowReader, codebook_size: int) -> TrainedVocabulary:
    captions = [text for text in rows.column("text") if text]
    if not captions:
        raise UsageError(f"{options.dataset}: has no captions to train a vocabulary on")
    prompting = PROMPTINGS[options.prompting]
    templates = [template for template in (prompting.text_to_image, prompting.image_editing) if template.system]
    prompts = [prompting.chat.question_text(DEFAULT_QUESTION), *(one.question_text("") for one in templates)]
    return train_text_tokenizer(captions + prompts * TEMPLATE_REPEATS, options.text_ids, codebook_size, prompting.roles)


def random_weights(config: DecoderConfig, seed: int) -> dict[str, np.ndarray]:
    """Return float32 tensors by name.

    Weights are normal; those that write into the residual stream are divided by √(2·layers), as in GPT-2.
    """
    random, tensors = np.random.default_rng(seed), {}
    for name, shape in parameter_shapes(config).items():
        deviation = WEIGHT_DEVIATION
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * config.num_hidden_layers) ** 0.5
        tensors[name] = random.normal(0, deviation, shape) if len(shape) > 1 else np.ones(shape)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
