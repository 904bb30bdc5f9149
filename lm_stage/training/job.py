"""Fine-tuning from code shards: packed samples of one or more datasets to a model; no vision model in memory.

The path of one sample: its length (data/mixture.py) → its row (data/shuffle.py, packing.py) → its sequence in a batch
(data/batch.py, sequences.py) → step.py → optimizer.py → log.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from lm_stage.data.job_arguments import open_mixture, open_model
from lm_stage.data.mixture import Mixture, common_codec
from lm_stage.model.checksums import take_part
from lm_stage.model.codec import codec_keys
from lm_stage.model.config import read_config
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.model.saved_model import keeps_class_of_base
from lm_stage.training.checkpoints import Checkpoints
from lm_stage.training.distributed import ProcessGroup, join_process_group
from lm_stage.training.loop import OnCheckpoint, TrainLoop
from lm_stage.training.model_state import TrainedModel, adamw_hyperparameters, check_parameter_names
from lm_stage.training.options import SftOptions, SftResult
from lm_stage.training.progress import Progress
from lm_stage.training.run_directory import check_resumable, checked_run, write_options, write_result
from shared.device import Device, setup_device
from shared.errors import CheckpointError
from shared.jobs.file_locks import run_lock
from shared.jobs.signals import stop_on_signals


def sft(options: SftOptions, on_checkpoint: OnCheckpoint | None = None) -> SftResult:
    """Train to the end, from the last checkpoint if there is one.

    Writes into `options.run`: `model/` (and `adapter/` with `lora_rank`), `checkpoints/`, `train_log.jsonl`,
    `loss.png`, `tensorboard/`, `options.json` and `left_out.jsonl` (samples that are too long for a row, have no
    answer, or are damaged; held-out ones too).
    `on_checkpoint` is called at every checkpoint with the directory of the model and the step.
    Raises ConfigMismatchError, before the model loads, if the run was started with different settings or the codecs
    of datasets and model differ; Interrupted, after a checkpoint, on SIGINT and SIGTERM; JobStoppedError if the loss
    stays non-finite.
    """
    run = checked_run(options.run)
    start = _open_start(options)
    mixture, held_out = _open_mixtures(options, start)
    codec = common_codec(start.codec, [one for one in (mixture, held_out) if one])
    device = set_up_training(options)
    group = join_process_group(device.has_reduce_scatter)
    recorded = _recorded(options, start, mixture, device, group)
    config = {
        **read_config(options.model),
        "token_layout": start.layout.to_dict(),
        **codec_keys(codec),
    }
    with stop_on_signals() as stop, run_lock(run) if group.is_first else nullcontext():
        check_resumable(run, recorded)
        checkpoints = Checkpoints(run, options.keep)
        checkpoint = checkpoints.newest_intact()
        if group.is_first:
            checkpoints.sweep()
            write_options(run, recorded)
        try:
            model = TrainedModel(options, start, config, device, group, checkpoint)
            progress = model.restore(checkpoint) if checkpoint else Progress()
        except CheckpointError as error:
            if checkpoint is None:
                raise
            raise checkpoints.damaged(checkpoint, error) from error  # checkpoints of earlier versions have no checksums
        return _train(TrainLoop(options, model, progress, mixture, held_out, stop), on_checkpoint)


def set_up_training(options: SftOptions) -> Device:
    """Set up the device that a run trains on; the settings can be made once in a process."""
    return setup_device(options.device, options.dtype, "bfloat16", options.kernels, options.deterministic)


def _open_start(options: SftOptions) -> ModelDirectory:
    """Open the model to start from. Raises UsageError if the options do not fit it."""
    start = open_model(options)
    check_parameter_names(options, start.config)
    return start


def _open_mixtures(options: SftOptions, start: ModelDirectory) -> tuple[Mixture, Mixture | None]:
    """Open the samples to train on, and the held-out ones if there are any."""
    mixture = open_mixture(options, options.entries, start)
    return mixture, open_mixture(options, options.held_out_entries, start) if options.held_out else None


def _recorded(
    options: SftOptions, start: ModelDirectory, mixture: Mixture, device: Device, group: ProcessGroup
) -> dict[str, Any]:
    """Return everything that a resumed run must share, as JSON returns it."""
    described = {
        **options.recorded(group.size),
        **asdict(adamw_hyperparameters(options)),
        "dtype": device.dtype,
        "deterministic": options.deterministic or device.kind == "CPU",  # which is deterministic in any case
        "data": mixture.fingerprints(),
        "start": start.recorded(),
    }
    return json.loads(json.dumps(described))  # tuples become lists


def _train(loop: TrainLoop, on_checkpoint: OnCheckpoint | None) -> SftResult:
    if loop.group.is_first:
        loop.skipped.write()
        for line in loop.skipped.summary():
            tqdm.write(line, file=sys.stderr)
    loop.run(on_checkpoint)
    loop.group.wait()  # the damage that the others recorded is on disk
    _write_results(loop)
    loop.group.wait()  # no process leaves before the others are done
    return _result(loop)


def _write_results(loop: TrainLoop) -> None:
    options, run = loop.options, loop.run_directory
    files = loop.model.model_files(options.save_dtype)
    if not loop.group.is_first:
        take_part(files)
        return
    loop.skipped.write()
    write_result(run / "model", files)
    if keeps_class_of_base(loop.model.config):
        note = (
            f"{run / 'model'}: is an Emu3ForConditionalGeneration, as its base is; in transformers, load it with that"
            " class or AutoModelForImageTextToText: AutoModelForCausalLM would leave its weights random"
        )
        tqdm.write(note, file=sys.stderr)
    if options.lora_rank:
        write_result(run / "adapter", loop.model.adapter_files())
    loop.log.draw(run / "loss.png")


def _result(loop: TrainLoop) -> SftResult:
    losses = [entry["loss"] for entry in loop.log.entries if "loss" in entry]
    held_out = [entry["held_out_loss"] for entry in loop.log.entries if "held_out_loss" in entry]
    recent = losses[-max(1, len(losses) // 20) :]
    return SftResult(
        model=loop.run_directory / "model",
        steps=loop.options.steps,
        loss=sum(recent) / len(recent) if recent else math.nan,
        held_out_loss=held_out[-1] if loop.evaluation and held_out else None,
        bad_steps=loop.progress.bad_steps,
        too_long=loop.skipped.too_long,
        damaged=len(loop.skipped.damaged()),
    )
