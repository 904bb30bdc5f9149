"""What a folder is read as: images and videos, tars or tables; whatever lies beside them."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.storage.paths import as_path
from tests.support.small_folders import fill
from vq_stage.sources.folder import FolderSource
from vq_stage.sources.media_source import MediaSource
from vq_stage.sources.open_source import open_source
from vq_stage.sources.tables import TableSource
from vq_stage.sources.webdataset import WebDatasetSource

PICTURES = [f"{n}.png" for n in range(20)]


@pytest.mark.parametrize(
    ("names", "kind", "uris"),
    [
        (["a.tar", "README.md", "b.tar"], WebDatasetSource, ["a.tar", "b.tar"]),
        (["a.TAR", ".cache/x.png", "preview.png"], WebDatasetSource, ["a.TAR"]),
        (["train/a.tar", "val/a.tar", "assets/figure.png"], WebDatasetSource, ["train/a.tar", "val/a.tar"]),
        (["a.tar", "a.urls.parquet", "a.json", "b.tar", "b.urls.parquet"], WebDatasetSource, ["a.tar", "b.tar"]),
        (["data/train-0.parquet", "README.md", ".gitattributes"], TableSource, ["data/train-0.parquet"]),
        (["split=a/0.parquet", "split=b/0.PARQUET"], TableSource, ["split=a/0.parquet", "split=b/0.PARQUET"]),
        (["images.parquet", "urls.parquet"], TableSource, ["images.parquet"]),
        ([*PICTURES, "backup.tar"], FolderSource, PICTURES),
        ([*PICTURES, "urls.parquet"], FolderSource, PICTURES),
        (["a.png", "urls.parquet"], FolderSource, ["a.png"]),
        (["a.png", "a.tar.gz", "list.json"], FolderSource, ["a.png"]),
        (["a.png", "codes/plan.arrow", "codes/parts/x.parquet", "codes/parts/y.tar"], FolderSource, ["a.png"]),
        (["walk.frames/0.png", "walk.frames/x.tar", "b.png"], FolderSource, ["b.png", "walk.frames"]),
    ],
)
@pytest.mark.parametrize("is_remote", [False, True])
def test_the_predominant_kind(
    names: list[str], kind: type[MediaSource], uris: list[str], is_remote: bool, tmp_path: Path
) -> None:
    root = as_path(f"memory://{uuid.uuid4().hex}") if is_remote else tmp_path
    source = open_source(str(fill(root, *names)))
    assert type(source) is kind
    assert source.root == root
    found = {re.split(r"(?<=\.tar)/|#", item.uri, flags=re.IGNORECASE)[0] for item in source}
    assert found == set(uris)


def test_what_was_used_and_skipped_is_reported(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "b.tar", "a.tar", "preview.png", "README.md", ".cache/x"))
    expected = [
        "source: 2 tars (first: a.tar)",
        "captions: 4 inputs without a caption (first: a.tar/10.png)",
        "skipped: 1 .md files (first: README.md)",
        "skipped: 1 .png files (first: preview.png)",
        "skipped: 1 hidden or system folders (first: .cache/)",
    ]
    for _ in range(2):
        assert len(list(source)) == 4
        assert list(source.report.lines()) == expected


def test_shards_beside_images_are_reported(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, *PICTURES, "backup.tar"))
    list(source)
    lines = list(source.report.lines())
    assert lines[0] == "source: 20 images and videos (first: 0.png); 1 tars or tables beside them are not read"
    assert "skipped: 1 .tar files (first: backup.tar)" in lines


@pytest.mark.parametrize(
    ("names", "globs"),
    [
        (["a.tar", "b.parquet"], ["*.tar", "*.parquet"]),
        (["x/a.tar", "b.parquet"], ["**/*.tar", "*.parquet"]),
        ([*PICTURES[:6], "a.tar"], ["*.png", "*.tar"]),
    ],
)
def test_ambiguous_folders_are_refused_with_the_globs_to_choose_from(
    names: list[str], globs: list[str], tmp_path: Path
) -> None:
    fill(tmp_path, *names)
    with pytest.raises(UsageError, match="choose one kind") as error:
        open_source(tmp_path)
    offered = re.findall(r"'([^']*)'", str(error.value))
    assert sorted(offered) == sorted(f"{tmp_path}/{pattern}" for pattern in globs)
    for pattern in globs:
        assert list(open_source(f"{tmp_path}/{pattern}"))


def test_tables_without_images_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="download the images first"):
        list(open_source(fill(tmp_path, "urls-0.parquet", "urls-b.parquet")))


@pytest.mark.parametrize("names", [["plan.arrow", "parts/x.arrow"], ["options.json", "train_log.jsonl", "loss.png"]])
def test_output_of_this_program_is_refused_as_a_source(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of this program"):
        open_source(fill(tmp_path, *names))


@pytest.mark.parametrize("names", [["a.png"], ["a.tar", "preview.png"]])
def test_a_dataset_in_the_same_folder_as_its_source(names: list[str], tmp_path: Path) -> None:
    before = list(open_source(fill(tmp_path, *names)))
    fill(
        tmp_path, "plan.arrow", "plan-0001.arrow", "parts/part-000000.x.arrow", "manifest.json", "shards/codes-0.arrow"
    )
    assert list(open_source(tmp_path)) == before


def test_decoded_pictures_can_be_encoded(tmp_path: Path) -> None:
    assert len(list(open_source(fill(tmp_path, ".emu3-decode.json", "a.png")))) == 1


def test_a_dataset_beside_its_tars(tmp_path: Path) -> None:
    """The dataset did not exist when the source was planned first."""
    before = list(open_source(fill(tmp_path, "a.tar")))
    fill(tmp_path, "codes/plan.arrow", "codes/parts/part-000000.x.arrow", "codes/shards/codes-0.arrow", "codes/x.png")
    assert list(open_source(tmp_path)) == before
    for pattern in ("**/*.tar", "*.tar", "**"):
        source = open_source(f"{tmp_path}/{pattern}")
        assert (source.root, list(source)) == (tmp_path, before)
