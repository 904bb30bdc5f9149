"""The model of a fine-tuning run: what of it moves, by which rule, and the files it is kept in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore.amp import DynamicLossScaler, LossScaler, StaticLossScaler
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lm_stage.model.config import DecoderConfig
from lm_stage.model.decoder import Decoder
from lm_stage.model.lora import WEIGHTS_FILE, adapter_files, add_adapters, merge_adapters, restore_adapters
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.model.weights import load_weights, parameter_shapes, read_weights
from lm_stage.training.adamw import AdamW, Rule
from lm_stage.training.distributed import Group
from lm_stage.training.options import SftOptions
from lm_stage.training.run_directory import STATE_FILE, model_files
from lm_stage.training.zero import ZeroAdamW
from shared.device import Device
from shared.errors import CheckpointError, UsageError

FIRST_LOSS_SCALE, STEPS_A_LOSS_SCALE = 2.0**16, 1000


class TrainedModel:
    """Decoder and optimizer, as a checkpoint left them or at their start; `counters` are those of the checkpoint.

    All processes that train together must call `checkpoint_files`, and without adapters `model_files`: with ZeRO each
    holds a part. Only the first of them gets something back.
    """

    def __init__(
        self,
        options: SftOptions,
        start: ModelDirectory,
        config: Mapping[str, Any],
        device: Device,
        group: Group,
        checkpoint: Path | None,
    ):
        self.options, self.start, self.config, self.group = options, start, config, group
        dtype = getattr(ms, device.dtype)
        has_others = options.zero or options.lora_rank  # float32 weights that move, beside the parameters
        self.decoder = Decoder(start.config, dtype if has_others else ms.float32, device.has_fused_attention, dtype)
        weights_from = options.model if options.lora_rank or checkpoint is None else checkpoint
        load_weights(self.decoder, weights_from)
        self.stored = read_weights(options.model)
        self.decoder.set_train(True)
        if options.recompute:
            for block in self.decoder.model.layers:
                block.recompute()
        rule = Rule(options.beta1, options.beta2, options.eps, options.weight_decay)
        if options.zero:
            self.optimizer: AdamW = ZeroAdamW(self._trained(), rule, group, device.has_reduce_scatter)
            weights = read_weights(weights_from)
            self.optimizer.start_from(lambda name: weights[name].float32())
        else:
            self.optimizer = AdamW(self._trained(), rule, group)
        self.scaler = loss_scaler(options.loss_scale, device.dtype)
        self.counters = self._restore(checkpoint) if checkpoint else {}

    def _trained(self) -> list[ms.Parameter]:
        """The parameters that move: those of adapters, or all that are not frozen."""
        options = self.options
        if options.lora_rank:
            targets = options.lora_targets
            return add_adapters(self.decoder, options.lora_rank, options.lora_alpha, targets, options.seed)
        return [p for p in self.decoder.trainable_params() if not any(part in p.name for part in options.freeze)]

    def _restore(self, directory: Path) -> dict[str, int]:
        """Puts the optimizer's moments, and adapters, back; returns the counters."""
        try:
            state = load_file(directory / STATE_FILE)
            self.optimizer.restore(state)
            for name, p in self._scaler_state().items():
                p.set_data(ms.Tensor(state[name][0], p.dtype))
            if self.options.lora_rank:
                restore_adapters(self.decoder, (directory / WEIGHTS_FILE).read_bytes(), str(directory))
        except (OSError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{directory}: cannot be resumed from: {error!r}; remove it to go back to the one before"
            ) from error
        return {name: int(value[0]) for name, value in state.items() if value.size == 1 and "." not in name}

    def checkpoint_files(self, counters: Mapping[str, int]) -> dict[str, bytes]:
        """The model, or its adapter, and the state of the run."""
        files = self.adapter_files() if self.options.lora_rank else self.model_files()
        state = self._gathered(self.optimizer.state())
        state |= {name: np.array([value]) for name, value in counters.items()}
        state |= {name: p.asnumpy().reshape(1) for name, p in self._scaler_state().items()}
        return {**files, STATE_FILE: save(state)} if self.group.is_first else {}

    def model_files(self, dtype: str = "float32") -> dict[str, bytes]:
        """A model as `from_pretrained` loads it, adapters merged into it."""
        weights = self._weights()
        return model_files(weights, self.config, self.start.path, dtype) if self.group.is_first else {}

    def adapter_files(self) -> dict[str, bytes]:
        options = self.options
        return adapter_files(self.decoder, options.lora_rank, options.lora_alpha, options.lora_targets, options.model)

    def _weights(self) -> dict[str, np.ndarray]:
        """Float32 weights by name: those that moved, and the frozen as they were stored."""
        trained = self._gathered(self.optimizer.whole_weights())
        if not self.group.is_first:
            return {}
        weights = {name: one.float32() for name, one in self.stored.items() if name not in trained}
        if self.options.lora_rank:
            merge_adapters(weights, self.decoder)
            return weights
        return {**weights, **trained}

    def _scaler_state(self) -> dict[str, ms.Parameter]:
        """What a checkpoint keeps of a loss scale that moves."""
        if not isinstance(self.scaler, DynamicLossScaler):
            return {}
        return {"loss_scale": self.scaler.scale_value, "steps_at_loss_scale": self.scaler.counter}

    def _gathered(self, tensors: Iterator[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Kept by the first process only: one of them at a time is in the memory of the others."""
        return {name: value for name, value in tensors if self.group.is_first}


def check_names(options: SftOptions, config: DecoderConfig) -> None:
    """Raises UsageError if layers or parameters are named that the model does not have, or nothing is left to train."""
    names = list(parameter_shapes(config))
    layers = sorted({name.split(".")[-2] for name in names if name.endswith("_proj.weight")})
    if options.lora_rank:
        unknown = [one for one in options.lora_targets if one not in layers]
        if unknown:
            raise UsageError(f"--lora-targets {', '.join(unknown)}: no such layers; there are {', '.join(layers)}")
    if unknown := [part for part in options.freeze if not any(part in name for name in names)]:
        raise UsageError(f"--freeze {', '.join(unknown)}: no such parameters; there are {names[0]}, {names[1]}, …")
    if all(any(part in name for part in options.freeze) for name in names):
        raise UsageError(f"--freeze {' '.join(options.freeze)}: leaves nothing to train")


def loss_scaler(fixed: float | None, dtype: str) -> LossScaler:
    """Of a fixed scale; else with float16 the largest that keeps gradients finite, halved and doubled as they go."""
    if fixed is None and dtype == "float16":
        return DynamicLossScaler(FIRST_LOSS_SCALE, 2, STEPS_A_LOSS_SCALE)
    return StaticLossScaler(fixed or 1.0)
