"""The training loop: data, step, log, evaluation and checkpoints, from the progress of a run to its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_stage.data.batch import BatchDivision, StepData, held_out_batches, step_batches
from lm_stage.data.mixture import Mixture
from lm_stage.data.skipped import SkippedSamples
from lm_stage.model.checksums import take_part
from lm_stage.training.checkpoints import Checkpoints
from lm_stage.training.model_state import TrainedModel
from lm_stage.training.options import SftOptions
from lm_stage.training.progress import Progress
from lm_stage.training.run_directory import write_result
from lm_stage.training.step import BatchLoss, Evaluation, Outcome, StepResult, TrainStep
from shared.errors import Interrupted, JobStoppedError
from shared.jobs.signals import StopFlag
from shared.training.log import TrainLog
from shared.training.schedule import CosineSchedule

OnCheckpoint = Callable[[Path, int], None]


class TrainLoop:
    """Trains a model on a mixture; `progress`, `log` and `skipped` record what happened."""

    def __init__(
        self,
        options: SftOptions,
        model: TrainedModel,
        progress: Progress,
        mixture: Mixture,
        held_out: Mixture | None,
        stop: StopFlag,
    ):
        self.options, self.model, self.progress, self.stop = options, model, progress, stop
        self.run_directory, self.group = Path(options.run), model.group
        self.checkpoints = Checkpoints(self.run_directory, options.keep)
        self.log = TrainLog(self.run_directory, progress.step)
        mixtures = [mixture, held_out] if held_out else [mixture]
        self.skipped = SkippedSamples(self.run_directory, self.group.rank, mixtures)
        self.on_damaged = self.skipped.add_damaged if options.skip_damaged else None
        self.division = BatchDivision(
            options.micro_batch_size, options.gradient_accumulation_steps, self.group.rank, self.group.size
        )
        stream = progress.row_stream(mixture, options, self.division.rows_per_step)
        # Processes that train together stop after a common step.
        self.data = step_batches(stream, self.division, self.on_damaged, None if self.group.size > 1 else stop)
        self.train_step = TrainStep(
            self._batch_loss(mixture), model.optimizer, options.clip_norm, model.scaler, self.group
        )
        self.schedule = CosineSchedule(
            options.learning_rate,
            options.min_lr_ratio,
            options.warmup_steps,
            decay_from=options.warmup_steps,
            decay_to=options.steps - 1,
        )
        self.evaluation = Evaluation(self._batch_loss(held_out), self.group) if held_out else None
        self.held_out = held_out_batches(held_out, self.division, self.on_damaged) if held_out else []

    def _batch_loss(self, mixture: Mixture) -> BatchLoss:
        return BatchLoss(self.model.decoder, self.options.seq_length, mixture.max_segment_length)

    def run(self, on_checkpoint: OnCheckpoint | None = None) -> None:
        """Train up to the last step.

        Raises Interrupted, after a checkpoint, if any process was asked to stop, and JobStoppedError if the loss is
        not finite for too many steps in a row or no step changed the weights.
        """
        with self._progress_bar() as bar, closing(self.log), closing(self.data):
            for data in self._remaining_data():
                rate = self.schedule.learning_rate(self.progress.step)
                result = self.train_step.run(data.batches, self.progress.applied_steps + 1, rate, self.stop.is_set())
                self.progress.advance(result.outcome, data.stream_state)
                if result.outcome is Outcome.BAD:
                    self._report_bad_step(data)
                self._log_step(result, rate)
                bar.set_postfix(loss=f"{result.loss:.4f}", tokens_s=self._tokens_per_second(), refresh=False)
                bar.update()
                if result.is_stopped or self._is_due(self.options.save_every):
                    self._save_checkpoint(None if result.is_stopped else on_checkpoint)
                if result.is_stopped and not self._is_last():
                    raise self._interrupted()
        if not self.progress.applied_steps:
            raise JobStoppedError(
                f"{self.run_directory}: none of {self.options.steps} steps changed the weights:"
                f" {self.progress.bad_steps} without a finite loss, the others without a supervised token or at too"
                " large a loss scale; check the samples, --loss-scale and --learning-rate"
            )

    def _remaining_data(self) -> Iterator[StepData]:
        """Yield the data of the steps to take. Raises Interrupted, after a checkpoint, if a reader is blocked."""
        try:
            yield from islice(self.data, self.options.steps - self.progress.step)
        except Interrupted as error:
            if not self.progress.step:
                raise
            self._save_checkpoint(None)
            raise self._interrupted() from error

    def _progress_bar(self) -> Any:
        hidden = None if self.group.is_first else True
        return tqdm(total=self.options.steps, initial=self.progress.step, unit="step", desc="sft", disable=hidden)

    def _is_last(self) -> bool:
        return self.progress.step == self.options.steps

    def _is_due(self, every: int) -> bool:
        return self._is_last() or self.progress.step % every == 0

    def _log_step(self, result: StepResult, learning_rate: float) -> None:
        """Add the step that was just counted to the log, with the held-out loss if it is due."""
        entry: dict[str, Any] = {result.outcome.value: 1}
        if result.outcome is Outcome.APPLIED:
            entry = {"loss": result.loss, "gradient_norm": result.gradient_norm}
        if self.evaluation and self._is_due(self.options.evaluate_every):
            entry["held_out_loss"] = self.evaluation.mean_loss(self.held_out)
        self.log.add(step=self.progress.step - 1, **entry, learning_rate=learning_rate, tokens=result.tokens)

    def _tokens_per_second(self) -> str:
        """Return the useful tokens per second over the last steps, for the progress bar."""
        recent = self.log.entries[-20:]
        elapsed_s = recent[-1]["elapsed_s"] - recent[0]["elapsed_s"]
        return f"{sum(entry['tokens'] for entry in recent[1:]) / elapsed_s:.0f}" if elapsed_s > 0 else "?"

    def _report_bad_step(self, data: StepData) -> None:
        """Raises JobStoppedError after too many bad steps in a row."""
        step, keys = self.progress.step - 1, [key for batch in data.batches for key in batch.keys]
        message = f"step {step}: loss or gradient not finite, step skipped; samples {', '.join(keys[:8])} …"
        tqdm.write(message, file=sys.stderr)
        if self.progress.bad_in_a_row >= self.options.max_bad_steps:
            raise JobStoppedError(
                f"{self.run_directory}: loss or gradient not finite for {self.progress.bad_in_a_row} steps in a row;"
                f" the last (step {step}) had samples {', '.join(keys)}; check them, or start another RUN with a lower"
                f" --learning-rate and --model {self._last_model()}"
            )

    def _last_model(self) -> Path | str:
        """Return the model that another run may start from; a checkpoint of adapters is not one."""
        newest = None if self.options.lora_rank else self.checkpoints.newest()
        return newest or self.options.model

    def _save_checkpoint(self, on_checkpoint: OnCheckpoint | None) -> None:
        """Write a checkpoint; all processes contribute, the first writes and calls `on_checkpoint`."""
        files = self.model.checkpoint_files(self.progress)
        if not self.group.is_first:
            take_part(files)
            return
        self.log.flush()  # before the checkpoint: resuming drops what a log has beyond it, but cannot restore a gap
        directory = self.checkpoints.save(self.progress.step, files)
        if on_checkpoint:
            on_checkpoint(self._as_model(directory), self.progress.step)

    def _as_model(self, checkpoint: Path) -> Path:
        """Return a directory with the model of a checkpoint: the checkpoint itself, unless it contains an adapter."""
        if not self.options.lora_rank:
            return checkpoint
        write_result(self.run_directory / "model", self.model.model_files())
        return self.run_directory / "model"

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped by {self.stop.signal_name or 'another process'}: checkpoint of step {self.progress.step} written"
            f" to {self.run_directory}; the same command resumes"
        )
