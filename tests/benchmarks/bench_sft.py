"""Training speed, compared with PyTorch `Emu3ForCausalLM` of transformers, AdamW and padded batches as upstream uses.

    python -m tests.benchmarks.bench_sft

Both sides have the same weights and samples and take their steps in turn, each in a process of its own, without
dropout. Useful tokens exclude padding. The comparison runs once on captioned images of mixed sizes and once on a
mixture of generated images, smaller images with questions, and texts.
The peer runs with two paddings: to `max_length` in the proportion of upstream's scripts, and to the longest sample,
the smallest length that works.
The reader alone is compared with one file for each sample, as upstream stores them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import click
import mindspore as ms
import numpy as np

from lm_stage.data.batch import TrainingBatch, build_batch
from lm_stage.data.mixture import Mixture
from lm_stage.data.options import LossWeights, MixtureEntry
from lm_stage.data.sequences import SequenceBuilder, TrainingSequence
from lm_stage.data.shuffle import PackedSample, RowStream
from lm_stage.model.config import DecoderConfig
from lm_stage.model.decoder import Decoder
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.model.new_model import create_model
from lm_stage.model.options import NewModelOptions
from lm_stage.model.weights import load_weights
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.training.optimizer import AdamW, AdamWHyperparameters
from lm_stage.training.step import BatchLoss, Evaluation, TrainStep
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import CodeRecord
from shared.device import setup_device
from tests.benchmarks.row import Row
from vq_stage.encode.options import EncodeOptions
from vq_stage.media.resizing import Preprocessing

SIZES = ((8, 8), (8, 12), (12, 12), (6, 16), (10, 14))  # codes
# Areas in the proportion of upstream's preparation: 720² pixels to generate, 480·320 to ask about.
GENERATED, QUESTIONED = ((15, 15), (13, 17), (17, 13), (18, 12)), ((8, 8), (7, 9), (9, 7), (6, 11))
MAX_LENGTH = 10240 / 8193  # tokens of a row in upstream's scripts, over the tokens of an image of 720² pixels
LEAST_PADDING = "to the longest sample"
GOALS = {("images", LEAST_PADDING): 1.15, ("mixture", LEAST_PADDING): 1.5}
WARM_UP = 8  # steps that are not counted: MindSpore compiles two shapes and tunes its threads
WORDS = [
    "a",
    "small",
    "red",
    "apple",
    "on",
    "the",
    "old",
    "table",
    "beside",
    "two",
    "green",
    "pears",
    "and",
    "a",
    "lemon",
]


def write_codes(root: Path, rows: int, sizes: Sequence[tuple[int, int]]) -> str:
    """Write random codes of some sizes, with captions, under the settings of an encode job."""
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    by_size: dict[tuple[int, int], list[PlannedInput]] = {size: [] for size in sizes}
    for index in range(rows):
        caption = " ".join(WORDS[: 2 + int(random.integers(len(WORDS) - 2))])
        by_size[sizes[index % len(sizes)]].append(PlannedInput(index, f"{index:06d}", f"{index}.png", caption))
    units = [Unit(number, 8 * h, 8 * w, tuple(inputs)) for number, ((h, w), inputs) in enumerate(by_size.items())]
    settings = EncodeOptions("", "", preprocessing=Preprocessing("none")).recorded()
    freeze_plan(root / "plan.arrow", units, settings, rows)
    dataset = Dataset(root)
    plan = dataset.plan()
    for unit in units:
        size = (1, unit.height // 8, unit.width // 8)
        records = [
            CodeRecord(
                item.key,
                item.src_index,
                "image",
                random.integers(0, 2048, size).astype(np.uint16),
                item.text,
                item.uri,
                bytes(32),
                unit.height,
                unit.width,
            )
            for item in unit.inputs
        ]
        dataset.commit(UnitResult(unit.unit, records), plan)
    dataset.write_manifest(plan)
    return str(root)


def write_texts(path: Path, count: int) -> str:
    """Write lines of 5 to 60 words."""
    random = np.random.default_rng(1)
    lines = [" ".join(random.choice(WORDS, 5 + int(random.integers(56)))) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return str(path)


class TorchPeer:
    """Trains on padded batches, with cross-entropy over all logits at once and AdamW."""

    def __init__(self, directory: Path, pad: int):
        import torch
        from safetensors.torch import load_file
        from transformers import Emu3ForCausalLM, Emu3TextConfig

        self.torch = torch
        torch.set_num_threads(os.cpu_count() or 1)
        raw = DecoderConfig.from_directory(directory).to_dict()
        settings = {name: value for name, value in raw.items() if name in DecoderConfig.__slots__}
        self.model = Emu3ForCausalLM(Emu3TextConfig(**settings, pad_token_id=pad, attention_dropout=0.0))
        weights = load_file(directory / "model.safetensors")
        self.model.load_state_dict(weights, strict="lm_head.weight" in weights)
        self.model.tie_weights()
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, (0.9, 0.95), 1e-6, weight_decay=0.1)
        self.pad = pad

    def step(self, sequences: list[TrainingSequence], length: int) -> float:
        ids = np.full((len(sequences), length), self.pad, np.int64)
        labels = np.full((len(sequences), length), -100, np.int64)
        mask = np.zeros((len(sequences), length), np.int64)
        for row, sequence in enumerate(sequences):
            size = len(sequence.token_ids)
            ids[row, :size], mask[row, :size] = sequence.token_ids, 1
            labels[row, :size] = np.where(sequence.weights > 0, sequence.token_ids, -100)
        arrays = (self.torch.from_numpy(array) for array in (ids, mask, labels))
        ids_BL, mask_BL, labels_BL = arrays
        loss = self.model(ids_BL, attention_mask=mask_BL, labels=labels_BL).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class PeerProcess:
    """Runs `TorchPeer` in another process: importing PyTorch alone slows MindSpore down by a tenth."""

    def __init__(self, directory: Path, pad: int):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, directory, pad), daemon=True)
        self.process.start()

    def step(self, sequences: list[TrainingSequence], length: int) -> tuple[float, float]:
        """Return the loss and the seconds that the step took."""
        self.connection.send((sequences, length))
        return self.connection.recv()

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(connection: Connection, directory: Path, pad: int) -> None:
    peer = TorchPeer(directory, pad)
    while True:
        sequences, length = connection.recv()
        start_s = time.perf_counter()
        loss = peer.step(sequences, length)
        connection.send((loss, time.perf_counter() - start_s))


def rows(quick: bool) -> list[Row]:
    """Compare training steps and readers, in fewer rounds if `quick`."""
    return measure(5 if quick else 16, 384, 6, 256, 6)


@click.command()
@click.option("--rounds", type=int, default=16)
@click.option("--seq-length", type=int, default=384)
@click.option("--micro-batch-size", type=int, default=6)
@click.option("--hidden", type=int, default=256)
@click.option("--layers", type=int, default=6)
def main(rounds: int, seq_length: int, micro_batch_size: int, hidden: int, layers: int) -> None:
    measure(rounds, seq_length, micro_batch_size, hidden, layers)


def measure(rounds: int, seq_length: int, micro_batch_size: int, hidden: int, layers: int) -> list[Row]:
    """Print everything, and return what has a peer."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        codes = write_codes(folder / "codes", 2000, SIZES)
        model = create_model(
            NewModelOptions(
                codes,
                str(folder / "model"),
                hidden_size=hidden,
                intermediate_size=3 * hidden,
                layers=layers,
                heads=hidden // 32,
                kv_heads=hidden // 64,
            )
        )
        start = ModelDirectory.open(model)
        builder = SequenceBuilder(SequenceRenderer(start.text_tokenizer, start.layout), LossWeights())
        images = Mixture([MixtureEntry(codes)], builder, seq_length)
        entries = [
            MixtureEntry(write_codes(folder / "generated", 1000, GENERATED)),
            MixtureEntry(write_codes(folder / "questioned", 1000, QUESTIONED), "understand"),
            MixtureEntry(write_texts(folder / "texts.jsonl", 1000), "text"),
        ]
        mixed = Mixture(entries, builder, seq_length)
        found = compare_steps("images", images, SIZES, start, rounds, micro_batch_size)
        found += compare_steps("mixture", mixed, GENERATED, start, rounds, micro_batch_size)
        return [*found, compare_readers(images, folder)]  # at the end: it imports PyTorch


def compare_readers(mixture: Mixture, folder: Path) -> Row:
    """Compare samples per second from shards and from one .pth file for each sample."""
    import torch

    samples = mixture.sample_sets[0]
    count = len(samples.keys)
    start_s = time.perf_counter()
    for index in range(count):
        samples.sequence(index, False)
    ours = count / (time.perf_counter() - start_s)
    start_s = time.perf_counter()
    for row in range(count):
        samples.rows.codes_THW(row)
    mapped = count / (time.perf_counter() - start_s)
    (folder / "files").mkdir()
    for index in range(count):
        torch.save(
            torch.from_numpy(samples.sequence(index, False).token_ids.astype(np.int64)), folder / f"files/{index}.pth"
        )
    start_s = time.perf_counter()
    for index in range(count):
        torch.load(folder / f"files/{index}.pth", weights_only=True)
    theirs = count / (time.perf_counter() - start_s)
    click.echo(f"reader: {ours:,.0f} sequences/s from shards, {theirs:,.0f} from a file each: {ours / theirs:.1f}×")
    click.echo(f"  codes alone, memory-mapped, with checksums verified: {mapped:,.0f} rows/s")
    return Row("read training sequences", ours, "sequences/s", "one .pth file per sample", theirs, ours / theirs)


def compare_steps(
    name: str,
    mixture: Mixture,
    sizes: Sequence[tuple[int, int]],
    start: ModelDirectory,
    rounds: int,
    micro_batch_size: int,
) -> list[Row]:
    """Time the steps of both sides; `sizes` are the grids of the generated images."""
    setup_device("cpu")
    decoder = Decoder(start.config)
    load_weights(decoder, start.path)
    optimizer = AdamW(decoder.trainable_params(), AdamWHyperparameters())
    lengths = mixture.seq_length, mixture.max_segment_length
    ours, peer = TrainStep(BatchLoss(decoder, *lengths), optimizer, 1.0), PeerProcess(start.path, start.layout.pad)
    longest_image = max(h * (w + 1) + 3 for h, w in sizes)
    padded = {
        "as upstream": max(mixture.max_segment_length, round(longest_image * MAX_LENGTH)),
        LEAST_PADDING: mixture.max_segment_length,
    }
    stream = RowStream(mixture, 0, 0.0)
    taken: list[Round] = []
    for number in range(WARM_UP + rounds):
        chunk = list(islice(stream, micro_batch_size))
        batch, sequences = build_batch(chunk, mixture), _sequences(chunk, mixture)
        start_s = time.perf_counter()
        loss = ours.run([batch], number + 1, 1e-4).loss
        own_s = time.perf_counter() - start_s
        theirs = {padding: peer.step(sequences, length) for padding, length in padded.items()}
        if number == 0:
            click.echo(f"{name}: first loss {loss:.4f} and {theirs['as upstream'][0]:.4f}; compiled in {own_s:.0f} s")
        peer_s = {padding: seconds for padding, (_, seconds) in theirs.items()}
        taken.append(Round(batch.useful_tokens, len(sequences), own_s, peer_s))
    peer.end()
    found = print_rates(name, taken[WARM_UP:], padded, batch.token_ids_BL.size)
    print_parts(ours, Evaluation(BatchLoss(decoder, *lengths)), batch)
    return found


@dataclass(frozen=True, slots=True)
class Round:
    """One step of both sides: useful tokens, samples, our seconds, and the peer's seconds by padding."""

    useful: int
    samples: int
    own_s: float
    peer_s: dict[str, float]


def print_rates(name: str, rounds: list[Round], padded: dict[str, int], positions: int) -> list[Row]:
    """Print and return median rates; `positions` are those of one of our batches, `padded` the peer's row lengths."""
    useful = sum(one.useful for one in rounds)
    ours, found = statistics.median(one.useful / one.own_s for one in rounds), []
    click.echo(f"  ours: {ours:,.0f} useful tokens/s, {useful / len(rounds) / positions:.0%} of all")
    for padding, length in padded.items():
        rate = statistics.median(one.useful / one.peer_s[padding] for one in rounds)
        ratio = statistics.median(one.peer_s[padding] / one.own_s for one in rounds)
        share = useful / length / sum(one.samples for one in rounds)
        click.echo(f"  peer, padded {padding} ({length}): {rate:,.0f} useful tokens/s, {share:.0%} of all")
        click.echo(f"  ours over peer: {ratio:.2f}×")
        task, peer = f"SFT of {name}", f"transformers, padded {padding}"
        found.append(Row(task, ours, "useful tokens/s", peer, rate, ratio, GOALS.get((name, padding))))
    return found


def _sequences(chunk: list[list[PackedSample]], mixture: Mixture) -> list[TrainingSequence]:
    return [mixture.sample_sets[s.sample_set].sequence(s.index, s.drop_caption) for row in chunk for s in row]


def print_parts(step: TrainStep, evaluation: Evaluation, batch: TrainingBatch) -> None:
    """Print how long the parts of a step take."""
    parts = {
        "forward and loss": lambda: evaluation.mean_loss([batch]),
        "with gradients": lambda: step._accumulate(
            ms.Tensor(1e-3, ms.float32), *step.batch_loss.tensors_of(batch, batch.target_bucket)
        ).asnumpy(),
        "norm": step.optimizer.norm,
        "AdamW": lambda: step.optimizer.step(1, 1e-9, 1.0),
    }
    for name, run in parts.items():
        run()
        times = []
        for _ in range(5):
            start_s = time.perf_counter()
            run()
            times.append(time.perf_counter() - start_s)
        click.echo(f"  {name:<18} {statistics.median(times) * 1000:7.1f} ms")


if __name__ == "__main__":
    main()
