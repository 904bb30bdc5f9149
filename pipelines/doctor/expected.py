"""What the embedded models compute on a CPU in float32, kept as small data in expected.npz.

After a change of the embedded models or of these inputs: python -m pipelines.doctor.expected
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("expected.npz")
SIDE = 64  # of a picture in pixels
PICTURES = ("photos/astronaut.jpg", "emoji/bouquet.webp")
PROMPT = "a red apple"
GRID = 8  # rows and columns of codes of the generated image
LOGIT_STEP = 37  # every 37th logit of a position is kept


@cache
def expected() -> dict[str, np.ndarray]:
    """Return the arrays by name.

    `pictures` (B, 64, 64, 3), their `codes` and the `pixels` of those; `canary`, the codes of the canary; `token_ids`
    of a prompt with a generated image; every 37th of their `logits`; `tokens`, the codes of the image, with the
    `margins` between the best two logits of each; ten `losses` of a training.
    """
    with np.load(FILE) as file:
        return {name: file[name] for name in file.files}


def pictures() -> np.ndarray:
    """Return the embedded pictures: the middle of packaged ones, as uint8 (B, 64, 64, 3)."""
    from PIL import Image, ImageOps

    folder = Path(__file__).parents[1] / "demo" / "pictures"
    images = (Image.open(folder / name).convert("RGB") for name in PICTURES)
    return np.stack([np.asarray(ImageOps.fit(image, (SIDE, SIDE))) for image in images])


def compute() -> dict[str, np.ndarray]:
    """Compute all arrays on this machine."""
    from pipelines.doctor import language, training, vision

    tokenizer, model = vision.load("cpu", "float32", "auto"), language.load("cpu", "float32", "auto")
    pixels = pictures()
    codes = tokenizer.encode_images(pixels)
    tokens = language.greedy_codes(model)
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
