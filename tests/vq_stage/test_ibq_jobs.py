"""The jobs of the vision stage with a tokenizer that encodes images only, with codes of 32 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from tests.support.step_by_step import stand_in_tokenizer
from vq_stage.tokenizer import to_uint8

Expected = dict[str, np.ndarray]


def emu3(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def source(golden_ibq_expected: Expected, tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, pixels in enumerate(golden_ibq_expected["images"]):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_golden_codes_through_encode_verify_inspect_and_decode(
    source: Path, golden_ibq: Path, golden_ibq_expected: Expected, tmp_path: Path
) -> None:
    codes, out, model = tmp_path / "codes", tmp_path / "out", ("--vision-tokenizer", golden_ibq, "--device", "cpu")
    for rows in (2, 0):
        encoded = emu3("encode", source, codes, *model, "--resize", "none")
        assert encoded.exit_code == 0, encoded.output
        assert f"{rows} rows encoded, 0 quarantined" in encoded.output
    dataset = Dataset.open(str(codes))
    rows = {row.key: row.codes_THW for record in dataset.commit_records() for row in dataset.rows(record)}
    assert {row.dtype for row in rows.values()} == {np.dtype(np.uint32)}
    for index, expected in enumerate(golden_ibq_expected["codes"]):
        np.testing.assert_array_equal(rows[str(index)][0], expected)
    codec = dataset.plan().settings.codec
    assert (codec.codebook_size, codec.spatial_factor, codec.temporal_factor) == (70000, 4, 1)
    assert dataset.canary_path.is_file()
    assert emu3("verify", codes).exit_code == 0
    inspected = emu3("inspect", codes)
    assert (inspected.exit_code, "70000" in inspected.output.replace(" ", "")) == (0, True), inspected.output
    decoded = emu3("decode", codes, out, *model)
    assert decoded.exit_code == 0, decoded.output
    for index, recon in enumerate(golden_ibq_expected["recon"]):
        pixels = np.asarray(Image.open(out / f"{index}.png")).astype(int)
        assert np.abs(pixels - to_uint8(recon)).max() <= 1


def test_another_tokenizer_is_refused_before_it_loads(
    source: Path, golden_ibq: Path, golden_vq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_tokenizer(monkeypatch)
    encode = ("encode", source, tmp_path / "codes", "--resize", "none", "--device", "cpu", "--vision-tokenizer")
    assert emu3(*encode, golden_ibq).exit_code == 0
    refused = emu3(*encode, golden_vq)
    assert (refused.exit_code, "spatial_factor: recorded 4, given 8" in refused.output) == (2, True), refused.output
    decoded = emu3("decode", tmp_path / "codes", tmp_path / "out", "--vision-tokenizer", golden_vq)
    assert (decoded.exit_code, "give that tokenizer by --vision-tokenizer" in decoded.output) == (2, True)
