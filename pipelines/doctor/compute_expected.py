"""Computes the data of `expected` on this machine's CPU: python -m pipelines.doctor.compute_expected"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from pipelines.doctor import language, training, vision
from pipelines.doctor.expected import FILE, LOGIT_STEP, SIDE
from vq_stage.media.image_decoding import open_image

PICTURES = ("photos/astronaut.jpg", "emoji/bouquet.webp")


def pictures() -> np.ndarray:
    """Return the embedded pictures: the middle of packaged ones, as uint8 (B, 64, 64, 3)."""
    from PIL import ImageOps

    folder = Path(__file__).parents[1] / "demo" / "pictures"
    images = (open_image(io.BytesIO((folder / name).read_bytes())).convert("RGB") for name in PICTURES)
    return np.stack([np.asarray(ImageOps.fit(image, (SIDE, SIDE))) for image in images])


def compute() -> dict[str, np.ndarray]:
    """Compute all arrays on this machine."""
    tokenizer, model = vision.load("cpu", "float32", "auto"), language.load("cpu", "float32", "auto")
    pixels = pictures()
    codes = tokenizer.encode_images(pixels)
    tokens = language.greedy_generation(model)()
    token_ids = language.token_ids_with(model, tokens)
    logits = model.logits(token_ids)
    return {
        "pictures": pixels,
        "codes": codes,
        "pixels": tokenizer.decode_images(codes),
        "canary": vision.canary_codes(tokenizer),
        "token_ids": token_ids,
        "logits": logits[:, ::LOGIT_STEP],
        "tokens": tokens,
        "margins": language.margins(model, logits, token_ids),
        "losses": training.losses("cpu", "float32", "auto"),
    }


def write(path: Path = FILE) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **compute())
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    write()
