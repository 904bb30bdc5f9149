"""The worker's source opens every kind of item by URI and locator, without listing."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import RefusedInput
from tests.support.small_folders import fill
from tests.support.small_sources import png
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.open_source import open_source
from vq_stage.sources.planned_source import PlannedSource


def read(source: MediaSource, item: MediaItem) -> bytes:
    with source.open(item.uri, item.locator) as file:
        return file.read()


@pytest.mark.parametrize("name", ["a.png", "a.tar", "x.tar/b.TAR", "x.tar/t.parquet", "x.tar/y.parquet#1/c.tar"])
def test_content_is_that_of_the_listed_source(name: str, tmp_path: Path) -> None:
    listed = open_source(fill(tmp_path, name))
    planned = PlannedSource(tmp_path)
    assert list(planned) == []
    items = list(listed)
    assert items
    assert [read(planned, item) for item in items] == [read(listed, item) for item in items]
    assert read(planned, items[0]) == png(0)


def test_it_does_not_matter_what_came_since(tmp_path: Path) -> None:
    items = list(open_source(fill(tmp_path, "a.tar")))
    fill(tmp_path, "b.parquet", *[f"{n}.png" for n in range(30)])
    assert read(PlannedSource(tmp_path), items[0]) == png(0)


def test_what_is_gone_is_refused(tmp_path: Path) -> None:
    for uri, locator in [("a.png", None), ("a.tar/b.png", (512, 9)), ("t.parquet#3", (0, 3)), ("odd", (0, 3))]:
        with pytest.raises(RefusedInput, match="missing"):
            PlannedSource(tmp_path).open(uri, locator)
