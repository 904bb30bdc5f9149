"""The smallest vision tokenizers that have all kinds of layers, and a training step for those that are not trained."""

from __future__ import annotations

import numpy as np

from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.ibq_config import IbqConfig

TINY_VQ = Emu3Config(base_channels=32, channel_multiplier=(1, 1, 1, 1), num_res_blocks=1, codebook_size=16)
TINY_IBQ = IbqConfig(
    base_channels=32,
    channel_multiplier=(1, 1, 1),
    num_res_blocks=1,
    attn_resolutions=(8,),
    latent_channels=4,
    embed_dim=4,
    codebook_size=16,
    resolution=32,
)


def step_that_changes_nothing(
    cell: object, codebook: object, pixels_BTHWC: np.ndarray, *others: object
) -> tuple[float, float, float, np.ndarray]:
    """Return what `vq_stage.training.job._run_step` returns: loss, PSNR, the share of codes in use, and pixels."""
    return 0.5, 20.0, 1.0, np.zeros(pixels_BTHWC.shape, np.float32)
