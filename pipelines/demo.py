"""The demo: the embedded pictures through the vision stage and back, with everything checked on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.report import summary_text
from shared.dataset import Dataset
from shared.errors import DatasetError
from shared.summary import summarize
from shared.verify import verify_dataset
from vq_stage.contact_sheet import draw_contact_sheet
from vq_stage.decode import DecodeOptions, decode, picture_path
from vq_stage.encode import EncodeOptions, encode
from vq_stage.preprocess import Preprocessing
from vq_stage.quality import psnr_db
from vq_stage.sources import list_source

PICTURES = Path(__file__).parent / "demo_pictures"
AREA = 128 * 128


def run_demo(out: Path, say: Callable[[str], None]) -> None:
    """Encodes, verifies and decodes the embedded pictures into `out`; prints figures and draws a contact sheet.

    Raises DatasetError if what was encoded does not verify.
    """
    began = time.monotonic()
    dataset, pictures, sheet = out / "codes", out / "pictures", out / "contact-sheet.png"
    preprocessing = Preprocessing("area", AREA)
    say(f"1. encode {PICTURES} → {dataset}")
    result = encode(
        EncodeOptions(str(PICTURES), str(dataset), preprocessing=preprocessing, unit_rows=48, quality_samples=4)
    )
    say(f"   {result.rows} images encoded, {result.quarantined} quarantined in {result.elapsed_s:.1f} s")
    say("2. verify")
    report = verify_dataset(Dataset.open(dataset))
    if report.problems:
        raise DatasetError("; ".join(report.problems))
    say(f"   {report.rows} rows, digest {report.digest}")
    say(f"3. decode → {pictures}")
    decode(DecodeOptions(str(dataset), str(pictures)))
    say("4. figures")
    say(summary_text(summarize(Dataset.open(dataset))))
    say(f"restored   mean PSNR of all pictures {_mean_psnr_db(pictures, preprocessing):.2f} dB")
    draw_contact_sheet(str(dataset), str(sheet), rows=report.rows)
    say(f"5. look at {sheet} ({time.monotonic() - began:.0f} s in all)")


def _mean_psnr_db(pictures: Path, preprocessing: Preprocessing) -> float:
    """Of every decoded file against its original at the same size."""
    from vq_stage.images import decode_rgb, read_bytes

    source, values = list_source(PICTURES), []
    for item in source.items:
        image = decode_rgb(read_bytes(source.path(item.uri)))
        original = preprocessing.resize(image, *preprocessing.target_size(image.height, image.width))
        values.append(psnr_db(original, np.asarray(Image.open(picture_path(pictures, item.key, "png")))))
    return float(np.mean(values))
