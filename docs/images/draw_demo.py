"""Draw `demo.jpg` from the output of `make demo`.

python docs/images/draw_demo.py demo docs/images/demo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURES = Path(__file__).parents[2] / "pipelines" / "demo" / "pictures"
KEYS = ("ambulance", "backpack", "bouquet", "carrot", "chess-pawn", "crab", "crayon", "custard")
CELL, GAP, LABEL = 112, 8, 20


def main(demo: Path, output: Path) -> None:
    rows = {
        "pictures": PICTURES / "emoji",
        "decoded from their codes (8 by 8 each)": demo / "restored" / "emoji",
        "generated from their captions, after fine-tuning on the codes": demo / "after" / "emoji",
    }
    size = (len(KEYS) * (CELL + GAP) + GAP, len(rows) * (CELL + GAP + LABEL) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for line, (label, folder) in enumerate(rows.items()):
        y = GAP + line * (CELL + GAP + LABEL)
        draw.text((GAP, y), label, "black", font)
        for column, key in enumerate(KEYS):
            image = Image.open(next(folder.glob(f"{key}.*"))).convert("RGBA")
            background = Image.new("RGBA", image.size, "white")
            picture = Image.alpha_composite(background, image).convert("RGB")
            resized = picture.resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(resized, (GAP + column * (CELL + GAP), y + LABEL))
    sheet.save(output, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
