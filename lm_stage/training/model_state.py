"""The model of a fine-tuning run: its decoder, optimizer and loss scale, and the files that store them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore.amp import DynamicLossScaler, LossScaler, StaticLossScaler
from safetensors import SafetensorError, safe_open

from lm_stage.model.checksums import Files
from lm_stage.model.config import DecoderConfig
from lm_stage.model.decoder import Decoder
from lm_stage.model.kernels import select
from lm_stage.model.lora import WEIGHTS_FILE, adapter_files, add_adapters, merge_adapters, restore_adapters
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.model.safetensors_writer import SavedTensor, array_tensor
from lm_stage.model.saved_model import keeps_class_of_base, saved_model_files
from lm_stage.model.weights import load_weights, parameter_shapes, read_weights
from lm_stage.training.checkpoints import STATE_FILE
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.optimizer import AdamW, AdamWHyperparameters
from lm_stage.training.options import SftOptions
from lm_stage.training.progress import PROGRESS_TENSORS, Progress
from lm_stage.training.zero import ZeroAdamW
from shared.device import Device
from shared.errors import CheckpointError, UsageError

INITIAL_LOSS_SCALE, LOSS_SCALE_WINDOW = 2.0**16, 1000  # steps without overflow before the scale doubles


class TrainedModel:
    """Decoder, optimizer and loss scale. `config` is the content of `config.json` for the models it writes.

    Files hold tensors that are read when they are written, so that at most one of them is in memory. With ZeRO every
    process holds a part of each: while the first process writes files, the others must `take_part`.
    """

    def __init__(
        self,
        options: SftOptions,
        start: ModelDirectory,
        config: Mapping[str, Any],
        device: Device,
        group: ProcessGroup,
        checkpoint: Path | None,
    ):
        """Load the weights of a checkpoint, or of the model that the run starts from; `restore` loads the rest."""
        self.options, self.start, self.config, self.group = options, start, config, group
        self.decoder = build_decoder(options, start.config, device)
        # A checkpoint of adapters has no weights of the model.
        weights_from = options.model if options.lora_rank or checkpoint is None else checkpoint
        load_weights(self.decoder, weights_from)
        self.stored = read_weights(options.model)
        self.scaler = loss_scaler(options.loss_scale, device.dtype)
        parameters = trained_parameters(self.decoder, options)
        self.optimizer: AdamW
        if options.zero:
            weights = read_weights(weights_from)
            self.optimizer = ZeroAdamW(parameters, adamw_hyperparameters(options), group, self.decoder.kernels)
            self.optimizer.load_weights(lambda name: weights[name].float32())
        else:
            self.optimizer = AdamW(parameters, adamw_hyperparameters(options), group, self.decoder.kernels)

    def restore(self, checkpoint: Path) -> Progress:
        """Load the moments, loss scale and adapters of a checkpoint. Raises CheckpointError if it is damaged."""
        try:
            with safe_open(checkpoint / STATE_FILE, "numpy") as state:
                self.optimizer.restore(state.get_tensor)
                for name, p in self._scaler_state().items():
                    p.set_data(ms.Tensor(state.get_tensor(name)[0], p.dtype))
                stored = set(state.keys())
                counters = {name: state.get_tensor(name) for name in PROGRESS_TENSORS if name in stored}
            if self.options.lora_rank:
                restore_adapters(self.decoder, (checkpoint / WEIGHTS_FILE).read_bytes(), str(checkpoint))
            return Progress.from_tensors(counters)
        except (OSError, LookupError, TypeError, ValueError, OverflowError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint}: cannot resume from it: {error!r}") from error

    def checkpoint_files(self, progress: Progress) -> Files:
        """Return the files of a checkpoint: the model or its adapter, and the state of the run."""
        files = self.adapter_files() if self.options.lora_rank else self.model_files()
        scaler = {name: p.asnumpy().reshape(1) for name, p in self._scaler_state().items()}
        small = {name: array_tensor(value) for name, value in (progress.to_tensors() | scaler).items()}
        return {**files, STATE_FILE: self.optimizer.state() | small}

    def model_files(self, dtype: str = "float32") -> Files:
        """Return the files of a model as `from_pretrained` loads it, with adapters merged into the weights."""
        return saved_model_files(self._weights(), self.config, self.start.layout, self.start.path, dtype)

    def adapter_files(self) -> dict[str, bytes]:
        lora = self.options.lora
        is_conditional = keeps_class_of_base(self.config)
        return adapter_files(self.decoder, lora.rank, lora.alpha, lora.targets, self.start.path, is_conditional)

    def _weights(self) -> dict[str, SavedTensor]:
        """Return float32 weights by name: the trained ones, and the frozen ones as they were stored."""
        weights = {name: SavedTensor("F32", tensor.shape, tensor.float32) for name, tensor in self.stored.items()}
        if self.options.lora_rank:
            return merge_adapters(weights, self.decoder)
        return weights | self.optimizer.whole_weights()

    def _scaler_state(self) -> dict[str, ms.Parameter]:
        """Return the state of a dynamic loss scale, for checkpoints."""
        if not isinstance(self.scaler, DynamicLossScaler):
            return {}
        return {"loss_scale": self.scaler.scale_value, "steps_at_loss_scale": self.scaler.counter}


def build_decoder(options: SftOptions, config: DecoderConfig, device: Device) -> Decoder:
    """Build the decoder in training mode; its parameters have the compute type if float32 weights exist elsewhere."""
    dtype = getattr(ms, device.dtype)
    has_other_weights = options.zero or options.lora_rank > 0
    decoder = Decoder(config, dtype if has_other_weights else ms.float32, select(device), dtype)
    decoder.set_train(True)
    if options.recompute:
        for block in decoder.model.layers:
            block.recompute()
    return decoder


def trained_parameters(decoder: Decoder, options: SftOptions) -> list[ms.Parameter]:
    """Return the parameters to train: new adapters, or all parameters that are not frozen."""
    if options.lora_rank:
        return add_adapters(decoder, options.lora.rank, options.lora.alpha, options.lora.targets, options.seed)
    return [p for p in decoder.trainable_params() if not any(part in p.name for part in options.freeze)]


def adamw_hyperparameters(options: SftOptions) -> AdamWHyperparameters:
    return AdamWHyperparameters(weight_decay=options.weight_decay)


def loss_scaler(fixed: float | None, dtype: str) -> LossScaler:
    """Return a fixed loss scale, or a dynamic one for float16: it halves on overflow and doubles after a while."""
    if fixed is None and dtype == "float16":
        return DynamicLossScaler(INITIAL_LOSS_SCALE, 2, LOSS_SCALE_WINDOW)
    return StaticLossScaler(fixed or 1.0)


def check_parameter_names(options: SftOptions, config: DecoderConfig) -> None:
    """Raises UsageError if options name layers or parameters that the model lacks, or freeze everything."""
    names = list(parameter_shapes(config))
    layers = sorted({name.split(".")[-2] for name in names if name.endswith("_proj.weight")})
    if options.lora_rank and (unknown := [one for one in options.lora.targets if one not in layers]):
        raise UsageError(f"--lora-targets: expected some of {', '.join(layers)}, got {', '.join(unknown)}")
    if options.lora_rank > config.hidden_size:
        raise UsageError(
            f"--lora-rank: expected at most the model's width {config.hidden_size}, got {options.lora_rank}"
        )
    if unknown := [part for part in options.freeze if not any(part in name for name in names)]:
        raise UsageError(
            f"--freeze: expected parts of parameter names such as {names[0]}, {names[1]}, got {', '.join(unknown)}"
        )
    if all(any(part in name for part in options.freeze) for name in names):
        raise UsageError(f"--freeze {' '.join(options.freeze)}: leaves nothing to train; freeze fewer parameters")
