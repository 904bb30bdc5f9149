"""Training of a vision tokenizer: reconstruction and commitment loss, codebook by moving averages.

Method: van den Oord et al. 2017 (VQ-VAE, appendix A.1) with restart of dead codes as in Jukebox
(Dhariwal et al. 2020). The batch statistics of the temporal layers stay as they are, frozen.
"""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from safetensors.numpy import load_file, save
from tqdm import tqdm

from shared.device import setup_device
from shared.errors import CheckpointError, ConfigMismatchError
from shared.jobs.signals import stop_on_signals
from shared.storage.atomic import write_file
from shared.storage.digests import settings_diff
from shared.training.log import TrainLog
from shared.training.schedule import CosineSchedule
from vq_stage.decode.picture_grid import save_rows
from vq_stage.model.config import VQConfig
from vq_stage.model.network import VQModel
from vq_stage.model.weights import load_weights
from vq_stage.sources.open_source import open_source
from vq_stage.tokenizer import to_uint8
from vq_stage.training.codebook import CodebookAverage
from vq_stage.training.data import check_pictures, training_batches
from vq_stage.training.initialization import initialize
from vq_stage.training.options import TrainVQOptions


class TrainStep(nn.Cell):
    """One compiled step: forward, gradient, Adam. The codebook is moved by CodebookAverage, not here."""

    def __init__(self, model: VQModel, options: TrainVQOptions):
        super().__init__()
        self.model = model
        self.commitment = options.commitment
        trained = [
            p for name, p in model.parameters_and_names() if p.requires_grad and not name.startswith("quantize.")
        ]
        self.weights = ms.ParameterTuple(trained)
        self.adam = nn.Adam(self.weights, learning_rate_schedule(options), beta1=0.9, beta2=0.99)
        self.gradient = ms.value_and_grad(self.loss, None, self.weights, has_aux=True)

    def loss(self, pixels_BTCHW: Tensor, quantized: Tensor) -> tuple[Tensor, ...]:
        """Total loss; then squared error, latents (B, 1, C, h, w), codes and reconstruction.

        `quantized` in [0, 1] blends latents (0) into codebook entries (1): a network that has learned to use all
        latent dimensions first does not collapse onto a few codes.
        """
        latents = self.model.latents(pixels_BTCHW)
        codes = self.model.quantize.nearest_codes(ops.stop_gradient(latents))
        entries = ops.stop_gradient(self.model.quantize.entries(codes))
        straight_through = latents + quantized * ops.stop_gradient(entries - latents)
        recon = self.model.reconstruct(straight_through, pixels_BTCHW.shape[1] == 1)
        error = ops.square(recon - pixels_BTCHW).mean()
        total = error + quantized * self.commitment * ops.square(latents - entries).mean()
        return total, error, latents, codes, recon

    @ms.jit(jit_level="O0")
    def construct(self, pixels_BTCHW: Tensor, quantized: Tensor) -> tuple[Tensor, ...]:
        outputs, gradients = self.gradient(pixels_BTCHW, quantized)
        self.adam(gradients)
        return outputs


def learning_rate_schedule(options: TrainVQOptions) -> list[float]:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    schedule = CosineSchedule(options.learning_rate, 0.01, options.warmup, decay_from=0, decay_to=options.steps)
    return [schedule.learning_rate(step) for step in range(options.steps)]


def quantized_share(step: int, options: TrainVQOptions) -> float:
    """0 up to `quantize_from`, then linearly to 1 at `quantize_fully_from`; always 1 when fine-tuning."""
    if options.init_from is not None:
        return 1.0
    length = max(1, options.quantize_fully_from - options.quantize_from)
    return min(1.0, max(0.0, (step - options.quantize_from) / length))


def train_vq(options: TrainVQOptions) -> Path:
    """Trains to the end, from the last checkpoint if there is one; returns the directory of the tokenizer.

    Writes `config.json`, `model.safetensors`, `train_state.safetensors`, `train_log.jsonl` and
    `samples/step-N.png` into `options.out`. Raises Interrupted after a checkpoint on SIGINT and SIGTERM.
    """
    config, out = _config(options), Path(options.out)
    state_file = out / "train_state.safetensors"
    _check_resumable(options, out)
    source = open_source(options.source)
    pictures = check_pictures(source)
    device = setup_device(options.device)
    model = VQModel(config)
    if state_file.is_file():
        load_weights(model, out)
    elif options.init_from is not None:
        load_weights(model, options.init_from)
    else:
        initialize(model, options.seed)
    model.set_train(True)
    step_cell, average = (
        TrainStep(model, options),
        CodebookAverage(model.quantize, options.codebook_decay, options.seed),
    )
    if options.init_from is not None:
        average.start_from_codebook()
    first = _load_state(state_file, step_cell, average) if state_file.is_file() else 0
    (out / "samples").mkdir(parents=True, exist_ok=True)
    log = TrainLog(out, first)
    batches = training_batches(
        source, pictures, options.crop, options.batch, options.clip_share, options.seed, first, options.reader_threads
    )
    bar = tqdm(total=options.steps, initial=first, unit="step", disable=None, desc=f"train-vq on {device.kind}")
    with stop_on_signals() as stop, bar, closing(log):
        for step in range(first, options.steps):
            pixels = next(batches)
            total, error, latents, codes, recon = step_cell(
                _to_model(pixels), Tensor(quantized_share(step, options), ms.float32)
            )
            usage = average.update(latents.asnumpy(), codes.asnumpy(), step)
            psnr = 10 * math.log10(4.0 / max(float(error.asnumpy()), 1e-12))
            log.add(step=step, loss=float(total.asnumpy()), psnr_db=psnr, frames=pixels.shape[1], codebook_use=usage)
            bar.set_postfix(loss=f"{float(total.asnumpy()):.4f}", psnr=f"{psnr:.1f} dB", codes=f"{usage:.0%}")
            bar.update()
            is_last = step + 1 == options.steps or stop.is_set()
            if is_last or (step + 1) % options.save_every == 0:
                log.flush()  # before the checkpoint: what a log has beyond one is dropped, what it lacks is lost
                _save(out, config, options, step + 1, step_cell, average)
                save_rows(out / "samples" / f"step-{step + 1:07d}.png", [pixels[:, 0], _to_pixels(recon)[:, 0]])
            stop.raise_if_set(f"checkpoint of step {step + 1} written to {out}")
    return out


def _config(options: TrainVQOptions) -> VQConfig:
    if options.init_from is not None:
        return VQConfig.from_directory(options.init_from)
    path = Path(options.config or "")
    try:
        return VQConfig.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: expected a tokenizer config in JSON: {error}") from error


def _check_resumable(options: TrainVQOptions, out: Path) -> None:
    record = out / "train_options.json"
    if record.is_file():
        diff = settings_diff(json.loads(record.read_text(encoding="utf-8")), options.recorded())
        if diff:
            raise ConfigMismatchError(f"{out}: this run was begun with other settings:\n  " + "\n  ".join(diff))


def _to_model(pixels_BTHWC: np.ndarray) -> Tensor:
    return Tensor(np.ascontiguousarray(pixels_BTHWC.transpose(0, 1, 4, 2, 3), np.float32) * (2.0 / 255.0) - 1.0)


def _to_pixels(pixels_BTCHW: Tensor) -> np.ndarray:
    return to_uint8(pixels_BTCHW.asnumpy().transpose(0, 1, 3, 4, 2))


def _save(
    out: Path, config: VQConfig, options: TrainVQOptions, step: int, cell: TrainStep, average: CodebookAverage
) -> None:
    """Writes a checkpoint. The state is one file and holds the weights too, so that both are of one step."""
    weights = {name: p.asnumpy() for name, p in cell.model.parameters_and_names()}
    state = {f"weights.{name}": value for name, value in weights.items()}
    state |= {f"adam.{name}": p.asnumpy() for name, p in _adam_state(cell).items()}
    state |= {f"codebook.{name}": value for name, value in average.state().items()}
    write_file(out / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    write_file(out / "train_options.json", (json.dumps(options.recorded(), indent=2) + "\n").encode())
    write_file(out / "train_state.safetensors", save(state | {"step": np.array([step])}))
    stored = {name: value.astype(options.save_dtype) for name, value in weights.items()}
    write_file(out / "model.safetensors", save(stored, metadata={"format": "pt"}))


def _load_state(path: Path, cell: TrainStep, average: CodebookAverage) -> int:
    """Restores weights, moments and codebook averages of one step; returns how many steps are done."""
    state = load_file(path)
    for prefix, parameters in (("weights", dict(cell.model.parameters_and_names())), ("adam", _adam_state(cell))):
        for name, p in parameters.items():
            p.set_data(Tensor(state[f"{prefix}.{name}"]))
    average.restore({name.removeprefix("codebook."): v for name, v in state.items() if name.startswith("codebook.")})
    return int(state["step"][0])


def _adam_state(cell: TrainStep) -> dict[str, ms.Parameter]:
    """Moments, bias-correction powers and step count; not the weights, nor the fixed schedule."""
    weights = {id(p) for p in cell.weights}
    return {
        p.name: p for p in cell.adam.get_parameters() if id(p) not in weights and not p.name.endswith("learning_rate")
    }
