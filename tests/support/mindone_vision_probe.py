"""Runs mindone's vision tokenizer on CPU: `python -m tests.support.mindone_vision_probe CHECKPOINT DAMAGED IN OUT`.

IN.npz has `images` (B, H, W, 3) and `video` (T, H, W, 3), uint8. OUT.npz receives their `image_codes`,
`image_pixels`, `video_codes` and `video_pixels`, all computed through `VisionTokenizer`, and in `refusal` why the
checkpoint DAMAGED was refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from shared.device import setup_device
from tests.support.mindone_kernels import refusal_of, substitute_kernels
from vq_stage.model.families import read_config
from vq_stage.model.mindone import MindoneBackend
from vq_stage.tokenizer import VisionTokenizer


def main(checkpoint: Path, damaged: Path, inputs: Path, outputs: Path) -> None:
    """Encode and decode the inputs."""
    device = setup_device("cpu")
    substitute_kernels()
    config = read_config(checkpoint)
    tokenizer = VisionTokenizer(MindoneBackend.from_pretrained(checkpoint, config), config, device)
    with np.load(inputs) as file:
        image_codes = tokenizer.encode_images(file["images"])
        video_codes = tokenizer.encode_video(file["video"])
    np.savez(
        outputs,
        image_codes=image_codes,
        image_pixels=tokenizer.decode_images(image_codes),
        video_codes=video_codes,
        video_pixels=tokenizer.decode_video(video_codes),
        refusal=refusal_of(lambda: MindoneBackend.from_pretrained(damaged, config)),
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
