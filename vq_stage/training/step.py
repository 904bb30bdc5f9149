"""One training step: losses, gradients and Adam, compiled; and the schedules over steps.

How latents are quantized, and what that adds to the loss, differs between families: see `methods.py`.
"""

from __future__ import annotations

from abc import abstractmethod

import mindspore as ms
from mindspore import Tensor, nn

from shared.training.schedule import CosineSchedule
from vq_stage.model.autoencoder import Autoencoder
from vq_stage.training.options import TrainVQOptions

MIN_LR_RATIO = 0.01
CODEBOOK = "quantize."  # the beginning of the names of its parameters


class TrainStep(nn.Cell):
    """Forward pass, gradients and Adam in one graph."""

    trains_codebook = False  # whether Adam updates the codebook too

    def __init__(self, model: Autoencoder, options: TrainVQOptions):
        super().__init__()
        self.model = model
        self.commitment = options.commitment
        trained = [
            p
            for name, p in model.parameters_and_names()
            if p.requires_grad and (self.trains_codebook or not name.startswith(CODEBOOK))
        ]
        self.weights = ms.ParameterTuple(trained)
        self.adam = nn.Adam(self.weights, learning_rate_schedule(options), beta1=0.9, beta2=0.99)
        self.gradient = ms.value_and_grad(self.loss, None, self.weights, has_aux=True)

    @ms.jit(jit_level="O0")
    def construct(self, pixels_BTCHW: Tensor, quantized_share: Tensor) -> tuple[Tensor, ...]:
        """Update the weights; return what `loss` returned before the update."""
        outputs, gradients = self.gradient(pixels_BTCHW, quantized_share)
        self.adam(gradients)
        return outputs

    def loss(self, pixels_BTCHW: Tensor, quantized_share: Tensor) -> tuple[Tensor, ...]:
        """Return the loss, the squared error of the pixels, the latents (B, 1, C, h, w), their codes and the pixels.

        `quantized_share` in [0, 1] blends latents (0) into codebook entries (1): a network that first learns to use
        all latent dimensions does not collapse onto a few codes.
        """
        latents = self.model.encode_latents(pixels_BTCHW)
        blended, codes, quantization_loss = self.quantize(latents, quantized_share)
        reconstruction = self.model.decode_quantized(blended, pixels_BTCHW.shape[1] == 1)
        error = self.model.kernels.mean_squared_error(reconstruction, pixels_BTCHW)
        return error + quantization_loss, error, latents, codes, reconstruction

    @abstractmethod
    def quantize(self, latents_BTCHW: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blended latents that are decoded, the codes, and the weighted loss of the quantization."""


def learning_rate_schedule(options: TrainVQOptions) -> list[float]:
    """Return the learning rate of every step: linear warm-up, then a cosine to a hundredth of the peak."""
    schedule = CosineSchedule(options.learning_rate, MIN_LR_RATIO, options.warmup, decay_from=0, decay_to=options.steps)
    return [schedule.learning_rate(step) for step in range(options.steps)]


def quantized_share(step: int, options: TrainVQOptions) -> float:
    """Return 0 up to step `quantize_from`, then linearly to 1 at `quantize_fully_from`; always 1 in fine-tuning."""
    if options.init_from is not None:
        return 1.0
    length = max(1, options.quantize_fully_from - options.quantize_from)
    return min(1.0, max(0.0, (step - options.quantize_from) / length))
