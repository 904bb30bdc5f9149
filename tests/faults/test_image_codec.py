"""The real tokenizer of images only, whose codes take 32 bits: from pictures to pictures, with a kill and damage."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.dataset.dataset import Dataset
from shared.maintenance.summary import summarize
from tests.support.command import REPOSITORY, emu3, finish, verified_digest
from tests.support.flip import flip_bit
from tests.support.paused import PausedCommand
from tests.support.pictures import save_picture
from tests.support.small_sources import gif

TOKENIZER = ("--vision-tokenizer", str(REPOSITORY / "tests/golden/emu35_vq_small"))
OPTIONS = (*TOKENIZER, "--resize", "none", "--unit-rows", "2", "--batch-pixels", "768", "--quality-samples", "1")


def pictures_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


@pytest.mark.slow
def test_codes_of_32_bits_survive_a_kill_damage_and_an_export(tmp_path: Path) -> None:
    source, whole, killed = (tmp_path / name for name in ("pictures", "whole", "killed"))
    for index in range(5):
        save_picture(source / f"picture-{index}.png", index)
    (source / "film.gif").write_bytes(gif(4))
    emu3("encode", source, whole, *OPTIONS)
    digest = verified_digest(whole)
    paused = PausedCommand(f"{killed}/parts/*.json", 1, tmp_path / "pause", "encode", source, killed, *OPTIONS)
    paused.process.kill()
    assert finish(paused.process).returncode == -signal.SIGKILL
    assert "1 quarantined" in emu3("encode", source, killed, *OPTIONS).stderr
    assert summarize(Dataset.open(killed)).quarantined == {"images_only": 1}
    assert verified_digest(killed) == digest

    dataset = Dataset.open(killed)
    record = dataset.record(0)
    row = next(iter(dataset.rows(record)))
    assert row.code_dtype == dataset.plan().settings.codec.code_dtype == "uint32"
    flip_bit(dataset.parts / record.part, row.codes_bytes)
    assert repr(row.key) in emu3("verify", killed, exit_code=1).stderr
    assert "the same bytes as before" in emu3("repair", killed, source, *TOKENIZER).stderr
    assert verified_digest(killed) == digest

    emu3("seal", killed)
    emu3("export", killed, tmp_path / "tars")
    emu3("import", tmp_path / "tars", tmp_path / "imported")
    assert verified_digest(tmp_path / "imported") == verified_digest(killed) == digest
    assert "70000 entries" in emu3("inspect", tmp_path / "imported").stdout
    emu3("decode", tmp_path / "imported", tmp_path / "decoded", *TOKENIZER)
    decoded = pictures_of(tmp_path / "decoded")
    assert list(decoded) == list(pictures_of(source))
    assert {pixels.shape for pixels in decoded.values()} == {(16, 24, 3)}
