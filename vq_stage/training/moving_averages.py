"""The training step of Emu3's family, whose codebook follows moving averages of the latents.

Loss: van den Oord et al. 2017 (VQ-VAE), with the codebook loss replaced by moving averages (appendix A.1), see
`codebook.py`. The batch statistics of the temporal layers stay frozen.
"""

from __future__ import annotations

from mindspore import Tensor, ops

from vq_stage.training.step import TrainStep


class MovingAverageStep(TrainStep):
    """Straight-through: the encoder receives the gradient of the entry. The codebook is updated by CodebookEMA."""

    def quantize(self, latents_BTCHW: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes = self.model.quantize.nearest_codes(ops.stop_gradient(latents_BTCHW))
        quantized = ops.stop_gradient(self.model.quantize.lookup(codes))
        blended = latents_BTCHW + share * ops.stop_gradient(quantized - latents_BTCHW)
        loss = share * self.commitment * self.model.kernels.mean_squared_error(latents_BTCHW, quantized)
        return blended, codes, loss
