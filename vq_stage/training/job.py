"""The job behind `emu3 train-vq`: trains or fine-tunes a vision tokenizer, and resumes from its last checkpoint."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from shared.device import setup_device
from shared.jobs.file_locks import run_lock
from shared.jobs.signals import stop_on_signals
from shared.training.log import TrainLog
from vq_stage.media.image_grid import save_rows
from vq_stage.model.families import TokenizerConfig, build_network, read_config, read_config_file
from vq_stage.model.kernels import Kernels, select
from vq_stage.model.weights import check_dimensions, load_weights, read_weights
from vq_stage.sources.open_source import open_source
from vq_stage.tokenizer import to_model_range, to_uint8
from vq_stage.training.checkpoint import check_resumable, load_checkpoint, save_checkpoint
from vq_stage.training.data import TrainingPictures, training_batches
from vq_stage.training.methods import Codebook, method_of
from vq_stage.training.options import TrainVQOptions
from vq_stage.training.step import TrainStep, quantized_share


def train_vq(options: TrainVQOptions) -> Path:
    """Train to the last step, resuming from a checkpoint if there is one; return the tokenizer's directory.

    Writes `config.json`, `model.safetensors`, `train_options.json`, `train_state.safetensors`, `train_log.jsonl` and
    `samples/step-N.png` into `options.out`. Raises Interrupted after a checkpoint on SIGINT and SIGTERM,
    ConfigMismatchError if the folder holds a run with other settings, UsageError if no picture can be decoded, or if
    another process trains in the folder.
    """
    config = read_config(options.init_from) if options.init_from else read_config_file(options.config or "")
    options = options.fitted(config.codec)
    out, source = Path(options.out), open_source(options.source)
    with run_lock(out):
        check_resumable(out, options)
        _train(config, TrainingPictures(source), options, out)
    return out


def _train(config: TokenizerConfig, pictures: TrainingPictures, options: TrainVQOptions, out: Path) -> None:
    device = setup_device(options.device, kernels=options.kernels)
    cell, codebook = _build(config, options, select(device))
    first_step = load_checkpoint(out, cell, codebook)
    (out / "samples").mkdir(parents=True, exist_ok=True)
    log = TrainLog(out, first_step)
    batches = training_batches(pictures, options, config.codec.temporal_factor, first_step)
    bar = tqdm(total=options.steps, initial=first_step, unit="step", disable=None, desc=f"train-vq on {device.kind}")
    with stop_on_signals() as stop, bar, closing(log):
        for step in range(first_step, options.steps):
            pixels = next(batches)
            loss, psnr_db, codebook_use, reconstruction = _run_step(cell, codebook, pixels, step, options)
            log.add(step=step, loss=loss, psnr_db=psnr_db, frames=pixels.shape[1], codebook_use=codebook_use)
            bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{psnr_db:.1f} dB", codes=f"{codebook_use:.0%}")
            bar.update()
            done = step + 1
            if done == options.steps or stop.is_set() or done % options.save_every == 0:
                log.flush()  # before the checkpoint: on resume, extra log lines are dropped, missing ones are lost
                save_checkpoint(out, options, done, cell, codebook)
                save_rows(out / "samples" / f"step-{done:07d}.png", [pixels[:, 0], to_uint8(reconstruction)[:, 0]])
            stop.raise_if_set(f"checkpoint of step {done} written to {out}")


def _build(config: TokenizerConfig, options: TrainVQOptions, kernels: Kernels) -> tuple[TrainStep, Codebook]:
    """Build the model with its initial weights, the compiled step and the codebook averages."""
    method = method_of(config)
    if options.init_from is not None:
        check_dimensions(options.init_from, config, read_weights(options.init_from))
    model = build_network(config, kernels)
    if options.init_from is not None:
        load_weights(model, options.init_from)
    else:
        method.initialize(model, options.seed)
    model.set_train(True)
    codebook = method.codebook(model.quantize, options.codebook_decay, options.seed)
    if options.init_from is not None:
        codebook.initialize_from_codebook()
    return method.step(model, options), codebook


def _run_step(
    cell: TrainStep, codebook: Codebook, pixels_BTHWC: np.ndarray, step: int, options: TrainVQOptions
) -> tuple[float, float, float, np.ndarray]:
    """Update weights and codebook with one batch of uint8 pixels.

    Returns the loss, the PSNR in dB, the share of codes in use, and the reconstruction (B, T, H, W, C) in [-1, 1].
    """
    share = Tensor(quantized_share(step, options), ms.float32)
    loss, error, latents, codes, reconstruction = cell(Tensor(to_model_range(pixels_BTHWC)), share)
    codebook_use = codebook.update(latents.asnumpy(), codes.asnumpy(), step)
    psnr_db = 10 * math.log10(4.0 / max(float(error.asnumpy()), 1e-12))  # pixels span 2, and 2² = 4
    return float(loss.asnumpy()), psnr_db, codebook_use, reconstruction.asnumpy().transpose(0, 1, 3, 4, 2)
