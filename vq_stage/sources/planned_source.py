"""The source as a worker sees it: it opens what was planned, and lists nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from vq_stage.sources.media_source import Locator, MediaItem, MediaSource
from vq_stage.sources.tables import TableSource
from vq_stage.sources.webdataset import WebDatasetSource

_TABLE_ROW = re.compile(r"\.(parquet|arrow)#\d+(\.mp4)?$", re.IGNORECASE)


@dataclass(frozen=True)
class PlannedSource(MediaSource):
    """Files, members of tars and rows of tables below `root`, by the URIs and locators of a plan.

    The folder may have other content by now, such as the dataset itself.
    """

    def open(self, uri: str, locator: Locator | None = None) -> BinaryIO:
        if locator is None:
            return super().open(uri)
        source = self._tables if _TABLE_ROW.search(uri) else self._tars
        return source.open(uri, locator)

    @cached_property
    def _tables(self) -> TableSource:
        return TableSource(self.root, {})

    @cached_property
    def _tars(self) -> WebDatasetSource:
        return WebDatasetSource(self.root, {})

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        yield from ()

    def _empty_message(self) -> None:
        """Return None: the plan has the items."""
