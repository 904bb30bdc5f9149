"""`emu3 decode`: killed and run again, into wrong folders, and with keys that try to leave the folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.dataset.dataset import Dataset
from tests.support import handmade
from tests.support.command import DECODER, MODEL, emu3, finish, leftovers, start, wait_until
from tests.support.flip import flip_bit
from tests.support.pictures import PICTURES
from vq_stage.decode.output_files import RECORD_NAME, picture_path

MAX_COMPONENT_BYTES = 255  # on all common file systems
BATCHES_OF_ONE = ("--batch-pixels", "1")

ODD_KEYS = [
    "plain",
    "folder/plain",
    "/absolute",
    "../up",
    "a/../../up",
    "..",
    ".",
    "./plain",
    "folder/",
    "folder//plain",
    ".hidden",
    "...dots",
    "漢" * 300,
    "é" * 300 + "1",
    "é" * 300 + "2",
    "dot." + "x" * 300 + "/in",
    "nul\0byte",
    "back\\slash",
    "c:colon",
    "c_colon",
    "tilde~1",
    " space ",
    "line\nbreak",
    "plain.png/below",
    ".emu3-decode.json/below",
]


def pictures_in(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.png"))}


def decode(dataset: Path, out: Path, *options: str, exit_code: int = 0) -> str:
    return emu3("decode", dataset, out, *MODEL, *(options or BATCHES_OF_ONE), exit_code=exit_code, **DECODER).stderr


@pytest.fixture(scope="session")
def decoded(unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an undisturbed decode of the undisturbed dataset; tests must not modify them."""
    out = tmp_path_factory.mktemp("decoded") / "out"
    decode(unbroken, out)
    return out


def test_one_picture_per_row(unbroken: Path, decoded: Path) -> None:
    opened = Dataset.open(unbroken)
    keys = [row.key for record in opened.commit_records() for row in opened.rows(record)]
    assert sorted(pictures_in(decoded)) == sorted(f"{key}.png" for key in keys)
    assert len(set(pictures_in(decoded).values())) == PICTURES, "all pictures differ"
    assert np.asarray(Image.open(decoded / "picture-00.png")).shape == (16, 24, 3)


def test_killed_and_run_again(unbroken: Path, decoded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for pictures in (1, 20):
        process = start("decode", unbroken, out, *MODEL, *BATCHES_OF_ONE, **DECODER)
        wait_until(lambda pictures=pictures: len(list(out.glob("*.png"))) >= pictures, process)
        process.kill()
        assert finish(process).returncode == -9
    kept = len(pictures_in(out))
    assert 20 <= kept < PICTURES
    assert f"{PICTURES - kept} files written, {kept} already present" in decode(unbroken, out)
    assert pictures_in(out) == pictures_in(decoded)
    assert leftovers(out) == []


def test_folder_of_another_dataset_is_refused(decoded: Path, tmp_path: Path) -> None:
    other = handmade.make(tmp_path / "other").root
    shutil.copytree(decoded, tmp_path / "out")
    assert "another dataset" in decode(other, tmp_path / "out", exit_code=2)
    assert pictures_in(tmp_path / "out") == pictures_in(decoded)


def test_other_format_in_the_same_folder_is_refused(unbroken: Path, decoded: Path, tmp_path: Path) -> None:
    shutil.copytree(decoded, tmp_path / "out")
    assert "format" in decode(unbroken, tmp_path / "out", "--format", "jpg", exit_code=2)
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_foreign_pictures_are_not_mistaken_for_results(unbroken: Path, pictures: Path, tmp_path: Path) -> None:
    """For example the folder of the source pictures, which has the same names but no record of ours."""
    shutil.copytree(pictures, tmp_path / "out")
    printed = decode(unbroken, tmp_path / "out", exit_code=2)
    assert str(tmp_path / "out") in printed
    assert pictures_in(tmp_path / "out") == pictures_in(pictures)


@pytest.mark.usefixtures("decoded")  # its graph is used again
def test_a_damaged_part_is_not_decoded_silently(tmp_path: Path) -> None:
    """A flipped code would give a wrong picture; the row has its checksum."""
    dataset = handmade.make(tmp_path / "dataset").root
    (part,) = (dataset / "parts").glob("part-000000.*.arrow")
    flip_bit(part, handmade.record(1, "two").codes_bytes)
    assert "two" in decode(dataset, tmp_path / "out", exit_code=1)
    assert "two.png" not in pictures_in(tmp_path / "out")


@pytest.mark.usefixtures("decoded")  # its graph is used again
def test_odd_keys_stay_inside(tmp_path: Path) -> None:
    """The real command writes one picture per key and nothing outside its folder."""
    dataset, out = handmade.make(tmp_path / "dataset", ODD_KEYS).root, tmp_path / "up" / "up" / "out"
    decode(dataset, out)
    written = [path for path in tmp_path.rglob("*.png") if path.is_file()]
    assert len(written) == len(ODD_KEYS)
    assert all(path.is_relative_to(out) for path in written)
    assert f"0 files written, {len(ODD_KEYS)} already present" in decode(dataset, out)


def assert_safe(out: Path, keys: Iterable[str]) -> None:
    paths = {key: picture_path(out, key, "png") for key in keys}
    for key, path in paths.items():
        inner = path.relative_to(out).parts
        assert inner, f"{key!r}: the folder itself"
        assert not {"..", "."} & set(inner), f"{key!r}: {inner}"
        too_long = [name for name in inner if len(name.encode()) > MAX_COMPONENT_BYTES - len(".4194304-01234567.tmp")]
        assert not too_long, f"{key!r}: no room for a temporary name beside {too_long}"
        assert path.name.endswith(".png")
    files = {*paths.values(), out / RECORD_NAME}
    assert len(files) == len(paths) + 1, "two keys, one path"
    folders = {folder for path in files for folder in path.parents}
    assert not files & folders, "a picture has the path of another one's folder"


def test_paths_of_odd_keys(tmp_path: Path) -> None:
    assert_safe(tmp_path, ODD_KEYS)


components = st.one_of(
    st.sampled_from(["", ".", "..", "a", "a~", "~", "A", "..."]),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.builds(
        lambda a, m, b, n: a * m + "." + b * n,
        st.sampled_from("aé漢"),
        st.integers(0, 300),
        st.sampled_from("bü"),
        st.integers(0, 300),
    ),
)


@given(st.sets(st.lists(components, min_size=1, max_size=4).map("/".join), min_size=1, max_size=4))
def test_paths_of_any_keys(keys: set[str]) -> None:
    assert_safe(Path("/out"), keys)
