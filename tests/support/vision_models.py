"""The smallest vision tokenizer that has all kinds of layers."""

from __future__ import annotations

from vq_stage.model.config import VQConfig

TINY_VQ = VQConfig(base_channels=32, channel_multiplier=(1, 1, 1, 1), num_res_blocks=1, codebook_size=16)
