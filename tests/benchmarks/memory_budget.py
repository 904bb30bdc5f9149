"""The device memory that Emu3's published decoder needs: `python -m tests.benchmarks.memory_budget`.

Computed from the shapes of the model, not measured: sums of tensors that exist at the same time, as the code allocates
them. Workspaces of operators and fragmentation are not included, nor what MindSpore's scheduler keeps longer.

Symbols: P parameters, T trained ones, N cards, M tokens of a micro-batch, C hidden size, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import parameter_shapes
from lm_stage.training.options import DEFAULT_LORA_TARGETS
from lm_stage.training.step import LOSS_CHUNK
from pipelines.dry_run.graphs import published_sizes

GIBIBYTE = 1 << 30
HALF, SINGLE = 2, 4  # bytes of bfloat16 and float32
USABLE_GIB = 58  # of a card of 64 GB, as MindSpore documents it
COLLECTIVE_BYTES = 2 * 200 << 20  # of HCCL, with its documented default of HCCL_BUFFSIZE
CARDS = (1, 4, 8, 16)
SIZES = published_sizes()  # rows hold an image of 720×720 pixels with its caption, the KV cache one with a short prompt
ROW_TOKENS, IMAGE_POSITIONS = SIZES.seq_length, SIZES.cache_length
VISUAL_TOKENS = SIZES.visual_tokens[1] - SIZES.visual_tokens[0]
BATCH_SIZES = (1, 4, 8, 16, 20, 40)


@dataclass(frozen=True, slots=True)
class Training:
    """Settings of `emu3 sft` in bfloat16, with one row of `tokens` in a micro-batch."""

    cards: int = 1
    zero: bool = False
    recompute: bool = False
    lora_rank: int = 0
    tokens: int = ROW_TOKENS


def parameters(config: DecoderConfig) -> int:
    return sum(prod(shape) for shape in parameter_shapes(config).values())


def adapter_parameters(config: DecoderConfig, rank: int) -> int:
    """Return the size of adapters of the default matrices."""
    shapes = parameter_shapes(config)
    return sum(rank * sum(shape) for name, shape in shapes.items() if name.split(".")[-2] in DEFAULT_LORA_TARGETS)


def state_bytes(config: DecoderConfig, training: Training) -> int:
    """Return the weights, accumulated gradients and moments on one card."""
    P = parameters(config)
    if training.lora_rank:
        return HALF * P + 4 * SINGLE * adapter_parameters(config, training.lora_rank)
    if training.zero:
        return HALF * P + 4 * SINGLE * P // training.cards
    return 4 * SINGLE * P  # the weights themselves are float32


def layer_bytes(config: DecoderConfig, tokens: int) -> int:
    """Return the activations that the backward pass of one layer needs.

    Seven of the hidden size (two inputs of norms, their outputs, queries before and after rotation, the output of
    attention), three of keys or values, three of the feed-forward layer, and the statistics of fused attention: 8
    float32 values twice for each head.
    """
    kv = config.num_key_value_heads * config.head_dim
    values = 7 * config.hidden_size + 3 * kv + 3 * config.intermediate_size
    return tokens * (HALF * values + SINGLE * 2 * 8 * config.num_attention_heads)


def kept_bytes(config: DecoderConfig, training: Training) -> int:
    """Return what the forward pass keeps: the input of every layer, or all of its activations."""
    tokens = training.tokens
    one = HALF * tokens * config.hidden_size if training.recompute else layer_bytes(config, tokens)
    return config.num_hidden_layers * one


def loss_bytes(config: DecoderConfig) -> int:
    """Return the memory of the loss at its highest: while a chunk's gradient of the head is added to the others.

    That is three float32 tensors like the head, and the error of the chunk.
    """
    return 3 * SINGLE * config.vocab_size * config.hidden_size + HALF * LOSS_CHUNK * config.vocab_size


def backward_bytes(config: DecoderConfig, training: Training) -> int:
    """Return the memory of the backward pass at its highest, beside what was kept.

    Of a layer: its activations and their gradients; the gradients of its weights, computed in half precision and added
    in float32. At the end: those of the embedding.
    """
    layer = 2 * layer_bytes(config, training.tokens)
    if training.lora_rank:
        return layer
    shapes = parameter_shapes(config)
    first = sum(prod(shape) for name, shape in shapes.items() if name.startswith("model.layers.0."))
    in_flight = HALF + SINGLE
    return max(layer + in_flight * first, in_flight * config.vocab_size * config.hidden_size)


def training_gib(config: DecoderConfig, training: Training, is_worst_order: bool = False) -> float:
    """Return the peak on one card. In the worst order all gradients wait until the last is computed."""
    peak = state_bytes(config, training) + kept_bytes(config, training)
    peak += max(loss_bytes(config), backward_bytes(config, training))
    if training.cards > 1:
        peak += COLLECTIVE_BYTES
    if is_worst_order and not training.lora_rank:
        peak += HALF * parameters(config)
    return peak / GIBIBYTE


def generation_gib(config: DecoderConfig, rows: int, positions: int = IMAGE_POSITIONS) -> float:
    """Return the memory of generation in bfloat16 with `rows` rows of KV cache.

    Guidance takes two rows for each image. The head of the visual tokens is a copy; logits are float32, three times.
    """
    kv = config.num_key_value_heads * config.head_dim
    cache = rows * positions * config.num_hidden_layers * 2 * kv * HALF
    head = HALF * VISUAL_TOKENS * config.hidden_size
    logits = 3 * SINGLE * rows * VISUAL_TOKENS
    return (HALF * parameters(config) + cache + head + logits) / GIBIBYTE


def training_table(config: DecoderConfig) -> Iterator[str]:
    yield f"| `emu3 sft`, GiB on each of | {' | '.join(map(str, CARDS))} |"
    yield "|---|" + "---|" * len(CARDS)
    for name, options in {
        "all weights": {},
        "`--recompute`": {"recompute": True},
        "`--zero`": {"zero": True},
        "`--zero --recompute`": {"zero": True, "recompute": True},
        "`--lora-rank 64`": {"lora_rank": 64},
        "`--lora-rank 64 --recompute`": {"lora_rank": 64, "recompute": True},
    }.items():
        peaks = [training_gib(config, Training(cards, **options)) for cards in CARDS]
        yield f"| {name} | {' | '.join(map(_shown, peaks))} |"
    worst = [training_gib(config, Training(cards, zero=True, recompute=True), is_worst_order=True) for cards in CARDS]
    yield f"| `--zero --recompute`, worst order | {' | '.join(map(_shown, worst))} |"


def generation_table(config: DecoderConfig) -> Iterator[str]:
    yield f"| `emu3 generate --batch-size` | {' | '.join(map(str, BATCH_SIZES))} |"
    yield "|---|" + "---|" * len(BATCH_SIZES)
    for name, rows in {"with guidance": 2, "without": 1}.items():
        peaks = [generation_gib(config, rows * size) for size in BATCH_SIZES]
        yield f"| GiB {name} | {' | '.join(map(_shown, peaks))} |"


def _shown(gib: float) -> str:
    return f"{gib:.0f}" if gib <= USABLE_GIB else f"({gib:.0f})"


def page() -> str:
    """Return both tables; what does not fit on a card of 64 GB is in parentheses."""
    config = SIZES.decoder
    return "\n".join([*training_table(config), "", *generation_table(config)])


if __name__ == "__main__":
    print(page())
