"""The smallest vision tokenizers that have all kinds of layers."""

from __future__ import annotations

from vq_stage.model.config import VQConfig
from vq_stage.model.ibq_config import IbqConfig

TINY_VQ = VQConfig(base_channels=32, channel_multiplier=(1, 1, 1, 1), num_res_blocks=1, codebook_size=16)
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
