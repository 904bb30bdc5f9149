"""Cut captioned crops from the photos that scikit-image and scikit-learn contain.

    pip download --no-deps scikit-image==0.25.2 scikit-learn==1.7.2
    python tests/benchmarks/photo_crops.py OUT scikit_image-*.whl scikit_learn-*.whl

OUT gets <photo>-<number>.webp, squares of 64×64 pixels that show between 64 and 256 pixels of the photo, and .txt (what
the photo shows). Licenses are in the packages.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

PHOTOS = {
    "astronaut.png": "an astronaut",
    "chelsea.png": "a cat",
    "china.jpg": "a temple",
    "coffee.png": "a cup of coffee",
    "flower.jpg": "a flower",
    "hubble_deep_field.jpg": "galaxies",
    "ihc.png": "cells under a microscope",
    "motorcycle_left.png": "a motorcycle",
    "retina.jpg": "a retina",
    "rocket.jpg": "a rocket",
}
SIDE, LARGEST = 64, 256  # pixels


def read_photos(wheels: tuple[Path, ...]) -> dict[str, Image.Image]:
    """Return the photos by file name. Raises KeyError if the wheels do not contain all of them."""
    found = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            for name in files.namelist():
                if (base := Path(name).name) in PHOTOS:
                    found[base] = Image.open(io.BytesIO(files.read(name))).convert("RGB")
    return {name: found[name] for name in PHOTOS}


def random_crop(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a random square, scaled to SIDE and mirrored half of the time."""
    side = int(random.integers(SIDE, min(*photo.size, LARGEST) + 1))
    left, top = (int(random.integers(length - side + 1)) for length in photo.size)
    crop = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("wheels", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--crops", type=int, default=400, show_default=True, help="Number of crops of each photo.")
def main(out: Path, wheels: tuple[Path, ...], crops: int) -> None:
    """Write the crops; the same every time."""
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, photo in read_photos(wheels).items():
        for number in range(crops):
            stem = f"{Path(name).stem}-{number:04d}"
            random_crop(photo, random).save(out / f"{stem}.webp", lossless=True)
            (out / f"{stem}.txt").write_text(PHOTOS[name], encoding="utf-8")


if __name__ == "__main__":
    main()
