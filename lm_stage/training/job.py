"""Fine-tuning from shards: packed samples of one or more datasets to a model; no vision model in memory.

The way of one sample: its length (training_data.py) → its row (sample_order.py) → its sequence in a batch
(training_batch.py, training_sequences.py) → step (train_step.py) → log.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_stage.data.batch import TrainingBatch, build_batch
from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import SequenceBuilder
from lm_stage.data.shuffle import PlacedSample, epoch_members, packed_rows
from lm_stage.data.skipped import LeftOut
from lm_stage.model.config import read_config
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.templates import video_format_named
from lm_stage.training.distributed import Group, join_group
from lm_stage.training.model_state import TrainedModel, check_names
from lm_stage.training.options import SftOptions, SftResult
from lm_stage.training.run_directory import OPTIONS_FILE, Checkpoints, checked_run, recorded_options
from lm_stage.training.step import Evaluation, Outcome, StepResult, TrainStep
from shared.device import Device, setup_device
from shared.errors import ConfigMismatchError, Interrupted, JobStoppedError, UsageError
from shared.jobs.file_locks import try_lock
from shared.jobs.prefetch import prefetch_map
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage.atomic import write_directory, write_file
from shared.storage.digests import settings_diff
from shared.training.log import TrainLog
from shared.training.schedule import CosineSchedule

BATCHES_AHEAD = 4


def sft(options: SftOptions, on_checkpoint: Callable[[Path, int], None] | None = None) -> SftResult:
    """Trains to the end, from the last checkpoint if there is one.

    Writes into `options.run`: `model/` (with `lora_rank` also `adapter/`), `checkpoints/`, `train_log.jsonl`,
    `loss.png`, `tensorboard/`, `options.json` and `left_out.jsonl` (samples too long for a row, without an answer, or
    damaged; held-out ones too).
    `on_checkpoint` is called at every checkpoint with the model's directory and the step.
    Raises ConfigMismatchError, before the model loads, for other settings than the run was begun with or a dataset
    of another codec; Interrupted, after a checkpoint, on SIGINT and SIGTERM.
    """
    run = checked_run(options.run)
    start = ModelDirectory.open(options.model)
    if options.seq_length > start.config.max_position_embeddings:
        raise UsageError(
            f"--seq-length {options.seq_length}: the model has {start.config.max_position_embeddings} positions"
        )
    check_names(options, start.config)
    video_format = video_format_named(options.video_template)
    renderer = SequenceRenderer(start.text_tokenizer, start.layout, video_format)
    builder = SequenceBuilder(renderer, options.weights)
    mixture = Mixture(options.sources, builder, options.seq_length, options.skip_damaged)
    held_out = None
    if options.held_out:
        held_out = Mixture(options.held_out_sources, builder, options.seq_length, options.skip_damaged)
    codec = _codec(start, [*mixture.samples, *(held_out.samples if held_out else [])])
    config = {**read_config(options.model), "token_layout": start.layout.to_dict(), "codec_fingerprint": codec}
    device = setup_device(options.device, options.dtype, ascend_dtype="bfloat16")
    group = join_group()
    recorded = _recorded(options, start, mixture, device, group)
    _check_resumable(run, recorded)
    with stop_on_signals() as stop, _place(run, group):
        if group.is_first:
            Checkpoints(run, options.keep).sweep()
            write_file(run / OPTIONS_FILE, (json.dumps(recorded, indent=2) + "\n").encode())
        model = TrainedModel(options, start, config, device, group, Checkpoints(run, options.keep).newest())
        return SftJob(options, model, mixture, held_out, stop).train(on_checkpoint)


@contextmanager
def _place(run: Path, group: Group) -> Iterator[None]:
    """Holds the directory of a run for its first process. Raises UsageError if another run has it."""
    if not group.is_first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    claim = try_lock(run / ".claim")
    if claim is None:
        raise UsageError(f"{run}: another process trains here; give another RUN")
    try:
        yield
    finally:
        claim.release()


def _codec(start: ModelDirectory, samples: list[Any]) -> str | None:
    """The one fingerprint of model and datasets. Raises ConfigMismatchError if there are two."""
    expected, size = start.codec_fingerprint, start.layout.codebook_size
    for one in samples:
        if one.codec is None:
            continue
        found = one.codec.fingerprint
        if one.codec.codebook_size != size or (expected and found and found != expected):
            raise ConfigMismatchError(
                f"{one.rows.dataset.root}: {one.codec.codebook_size} codes of tokenizer {str(found)[:12]}; expected"
                f" {size} codes of {str(expected)[:12]}; encode with one tokenizer"
            )
        expected = expected or found
    return expected


def _recorded(
    options: SftOptions, start: ModelDirectory, mixture: Mixture, device: Device, group: Group
) -> dict[str, Any]:
    described = {
        **options.recorded(group.size),
        "dtype": device.dtype,
        "data": mixture.fingerprints(),
        "start": start.recorded(),
    }
    return json.loads(json.dumps(described))  # as it is read again: lists, no tuples


def _check_resumable(run: Path, recorded: dict[str, Any]) -> None:
    before = recorded_options(run)
    if before is not None and (diff := settings_diff(before, recorded)):
        raise ConfigMismatchError(
            f"{run} was begun with other settings:\n  " + "\n  ".join(diff) + "\nuse those, or another RUN"
        )


class SftJob:
    """One run from its last checkpoint to its end."""

    def __init__(
        self, options: SftOptions, model: TrainedModel, mixture: Mixture, held_out: Mixture | None, stop: StopFlag
    ):
        self.options, self.model, self.mixture, self.stop = options, model, mixture, stop
        self.group, self.run = model.group, Path(options.run)
        self.checkpoints = Checkpoints(self.run, options.keep)
        self.mixtures = [mixture, held_out] if held_out else [mixture]
        self.left_out = LeftOut(self.run, self.group.rank, self.mixtures)
        row, longest = options.seq_length, mixture.longest
        self.cell = TrainStep(model.decoder, row, longest, model.optimizer, options.clip_norm, model.scaler, self.group)
        self.first = model.counters.get("step", 0)
        self.taken = model.counters.get("taken", 0)
        self.bad_steps = model.counters.get("bad_steps", 0)
        self.bad_in_a_row = model.counters.get("bad_in_a_row", 0)
        self.log = TrainLog(self.run, self.first)
        self.evaluation: Evaluation | None = None
        if held_out:
            self.held_out = self._held_out_batches(held_out)  # may be none in this process
            self.evaluation = Evaluation(model.decoder, row, held_out.longest, self.group)

    def train(self, on_checkpoint: Callable[[Path, int], None] | None) -> SftResult:
        options = self.options
        schedule = CosineSchedule(
            options.learning_rate, options.min_lr_ratio, options.warmup, options.warmup, options.steps - 1
        )
        steps = self._batches()
        hidden = None if self.group.is_first else True
        if self.group.is_first:
            self.left_out.write()
            for line in self.left_out.said():
                tqdm.write(line, file=sys.stderr)
        bar = tqdm(total=options.steps, initial=self.first, unit="step", desc="sft", disable=hidden)
        with bar, closing(self.log):
            for step in range(self.first, options.steps):
                batches = next(steps)
                rate = schedule.learning_rate(step)
                result = self.cell.take(batches, self.taken + 1, rate, self.stop.is_set())
                entry = self._note(step, batches, result)
                is_last = step + 1 == options.steps
                if self.evaluation and (is_last or (step + 1) % options.evaluate_every == 0):
                    entry["held_out_loss"] = self.evaluation.mean_loss(self.held_out)
                self.log.add(step=step, **entry, learning_rate=rate, tokens=result.tokens)
                bar.set_postfix(loss=f"{result.loss:.4f}", tokens_s=self._rate(), refresh=False)
                bar.update()
                if is_last or result.is_stopped or (step + 1) % options.save_every == 0:
                    directory = self._save(step + 1)
                    if directory and on_checkpoint and not result.is_stopped:
                        on_checkpoint(self._as_model(directory), step + 1)
                if result.is_stopped and not is_last:
                    raise Interrupted(
                        f"stopped by {self.stop.signal_name or 'another process'}: checkpoint of step {step + 1}"
                        f" written to {self.run}; the same command resumes"
                    )
        if not self.taken:
            raise JobStoppedError(
                f"{self.run}: none of {options.steps} steps moved anything: {self.bad_steps} of them without a finite"
                " loss, the others without a token to learn or at too large a loss scale"
            )
        self.group.sum(0.0)  # what the others have noted is on disk
        self._write_results()
        self.group.sum(0.0)  # nobody leaves before the others are done
        return self._result()

    def _write_results(self) -> None:
        files = self.model.model_files(self.options.save_dtype)
        if not self.group.is_first:
            return
        self.left_out.write()
        write_directory(self.run / "model", files)
        if self.options.lora_rank:
            write_directory(self.run / "adapter", self.model.adapter_files())
        self.log.draw(self.run / "loss.png")

    def _result(self) -> SftResult:
        losses = [entry["loss"] for entry in self.log.entries if "loss" in entry]
        held_out = [entry["held_out_loss"] for entry in self.log.entries if "held_out_loss" in entry]
        recent = losses[-max(1, len(losses) // 20) :]
        return SftResult(
            self.run / "model",
            self.options.steps,
            sum(recent) / len(recent) if recent else math.nan,
            held_out[-1] if self.evaluation and held_out else None,
            self.bad_steps,
            sum(len(mixture.too_long) for mixture in self.mixtures),
            len(self.left_out.damaged()),
        )

    def _batches(self) -> Iterator[list[TrainingBatch]]:
        """This process's batches of each step, built ahead of the device."""
        options = self.options
        a_step = options.micro_batch_size * options.gradient_accumulation_steps * self.group.size
        rows = packed_rows(self.mixture, options.seed, options.caption_dropout, self.first * a_step)
        every_chunk = iter(lambda: list(islice(rows, options.micro_batch_size)), [])
        chunks = islice(every_chunk, self.group.rank, None, self.group.size)
        built = prefetch_map(partial(self._build, mixture=self.mixture), chunks, 1, BATCHES_AHEAD)
        while True:
            yield list(islice(built, options.gradient_accumulation_steps))

    def _held_out_batches(self, held_out: Mixture) -> list[TrainingBatch]:
        """One pass over all held-out samples."""
        rows, left = [], len(epoch_members(held_out, 0, 0))
        for row in packed_rows(held_out, 0, 0.0):
            rows.append(row)
            left -= len(row)
            if left <= 0:
                break
        rows += [[]] * (-len(rows) % self.options.micro_batch_size)
        chunks = [
            rows[begin : begin + self.options.micro_batch_size]
            for begin in range(0, len(rows), self.options.micro_batch_size)
        ]
        return [self._build(chunk, held_out) for chunk in chunks[self.group.rank :: self.group.size]]

    def _build(self, rows: Sequence[Sequence[PlacedSample]], mixture: Mixture) -> TrainingBatch:
        return build_batch(rows, mixture, self.left_out.note_damage if self.options.skip_damaged else None)

    def _note(self, step: int, batches: list[TrainingBatch], result: StepResult) -> dict[str, Any]:
        """What the log says of a step. Raises JobStoppedError after too many bad ones in a row."""
        if result.outcome is Outcome.TAKEN:
            self.taken += 1
            self.bad_in_a_row = 0
            return {"loss": result.loss, "gradient_norm": result.gradient_norm}
        if result.outcome is Outcome.BAD:
            self._note_bad(step, [key for batch in batches for key in batch.keys])
        return {result.outcome.value: 1}

    def _note_bad(self, step: int, keys: list[str]) -> None:
        self.bad_steps += 1
        self.bad_in_a_row += 1
        said = f"step {step}: loss or gradient not finite, nothing moved; samples {', '.join(keys[:8])} …"
        tqdm.write(said, file=sys.stderr)
        if self.bad_in_a_row >= self.options.max_bad_steps:
            raise JobStoppedError(
                f"{self.run}: {self.bad_in_a_row} steps in a row whose loss or gradient is not finite, the last (step"
                f" {step}) with samples {', '.join(keys)}; look at them, or begin another RUN with a lower"
                f" --learning-rate and --model {self._last_model()}"
            )

    def _last_model(self) -> Path | str:
        """What another run may start from; a checkpoint of adapters is no model."""
        newest = None if self.options.lora_rank else self.checkpoints.newest()
        return newest or self.options.model

    def _save(self, step: int) -> Path | None:
        """Writes a checkpoint and returns it; in the first process, the others only hand over what they hold of it."""
        counters = {
            "step": step,
            "taken": self.taken,
            "bad_steps": self.bad_steps,
            "bad_in_a_row": self.bad_in_a_row,
        }
        files = self.model.checkpoint_files(counters)
        if not self.group.is_first:
            return None
        self.log.flush()  # before the checkpoint: what a log has beyond one is dropped, what it lacks is lost
        return self.checkpoints.save(step, files)

    def _as_model(self, checkpoint: Path) -> Path:
        """A directory that holds the model of a checkpoint: the checkpoint itself, unless it is an adapter's."""
        if not self.options.lora_rank:
            return checkpoint
        write_directory(self.run / "model", self.model.model_files())
        return self.run / "model"

    def _rate(self) -> str:
        """Useful tokens a second over the last steps."""
        recent = self.log.entries[-20:]
        elapsed = recent[-1]["elapsed_s"] - recent[0]["elapsed_s"]
        return f"{sum(entry['tokens'] for entry in recent[1:]) / elapsed:.0f}" if elapsed > 0 else "?"
