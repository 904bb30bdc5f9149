"""What a folder is a source of: images and videos, tars or tables. It may contain other things as well."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import RefusedInput, UsageError
from vq_stage.sources.captions import METADATA_FILES
from vq_stage.sources.folder import FolderSource
from vq_stage.sources.folder_walk import Folder, FolderWalk, own_output
from vq_stage.sources.listing_report import ListingReport, Tally
from vq_stage.sources.media_source import MediaSource
from vq_stage.sources.media_types import (
    FRAME_FOLDER_SUFFIX,
    TABLE_SUFFIXES,
    TAR_SUFFIX,
    is_frame_folder,
    is_media,
    suffix_of,
)
from vq_stage.sources.table_files import open_table
from vq_stage.sources.tables import Columns, TableSource
from vq_stage.sources.webdataset import WebDatasetSource

MEDIA, TARS, TABLES = "images and videos", "tars", "tables"
FEW_MEDIA = 3  # a preview or two beside shards
MEDIA_PER_SHARD = 10  # from here on images are the content, and the shards lie beside them
MANY_MEDIA = 10_000  # a folder with this many images and hardly any shards is not searched any further
TIMES_AS_MANY = 2  # of tars than tables, or the reverse, to be the content


@dataclass
class Survey:
    """What is in a folder and below it. Shards are paths relative to it; `patterns` count files by glob."""

    media: Tally = field(default_factory=Tally)
    tars: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    patterns: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, path: str) -> str | None:
        """Count a file, or a folder of frames. Return its kind, None if it is no input."""
        suffix, name = suffix_of(path), path.rpartition("/")[2]
        if is_frame_folder(path) or is_media(path):
            self.media.add(path)
            kind = MEDIA
        elif suffix == TAR_SUFFIX:
            self.tars.append(path)
            kind = TARS
        elif suffix in TABLE_SUFFIXES and name not in METADATA_FILES:
            self.tables.append(path)
            kind = TABLES
        else:
            return None
        below = "**/" if "/" in path.rstrip("/") else ""
        self.patterns.setdefault(kind, Counter())[f"{below}*{Path(name).suffix}"] += 1
        return kind

    @property
    def shards(self) -> int:
        return len(self.tars) + len(self.tables)

    @property
    def is_clear(self) -> bool:
        """Whether there is no need to search further."""
        return self.media.count >= max(MANY_MEDIA, MANY_MEDIA // MEDIA_PER_SHARD * self.shards)

    def predominant(self) -> str | None:
        """Return the kind that the folder is a source of, None if that is not clear."""
        kind, count, others = TARS, len(self.tars), len(self.tables)
        if others > count:
            kind, count, others = TABLES, others, count
        if not count or self.media.count >= MEDIA_PER_SHARD * self.shards:
            return MEDIA
        is_small = self.media.count <= max(FEW_MEDIA, TIMES_AS_MANY * count)
        return kind if is_small and count >= TIMES_AS_MANY * others else None


def open_folder(root: Path, chosen: frozenset[str] | None = None) -> MediaSource:
    """Return the source of a folder, or of the chosen paths in it, by the kind of files that predominates.

    Raises UsageError for an ambiguous folder, and for one that this program wrote.
    """
    report = ListingReport()
    survey = _survey(root, report, chosen)
    if not (survey.media.count or survey.shards) and (own := own_output(FolderWalk(root, report).names(""))):
        raise UsageError(f"{root}: is one of the {own} of this program; expected images or videos to encode")
    kind = survey.predominant()
    if kind is None:
        raise UsageError(_ambiguous(root, survey))
    if kind == MEDIA:
        source: MediaSource = FolderSource(root, chosen=chosen)
        if survey.shards:
            source.report.used = (
                f"source: {survey.media.text(MEDIA)}; {survey.shards} tars or tables beside them are not read"
            )
        return source
    paths, others = (survey.tars, survey.tables) if kind == TARS else (survey.tables, survey.tars)
    for path in others:
        report.skip_file(path)
    named = {path: root / path for path in sorted(paths)}
    source = WebDatasetSource(root, named) if kind == TARS else TableSource(root, named)
    source.report.left_out.update(report.skipped)
    source.report.used = f"source: {len(paths)} {kind} (first: {min(paths)})"
    return source


def _survey(root: Path, report: ListingReport, chosen: frozenset[str] | None) -> Survey:
    walk, survey = FolderWalk(root, report, chosen), Survey()
    try:
        for folder in walk.folders():
            if f"{FRAME_FOLDER_SUFFIX}/" not in folder.prefix.lower():
                _count(folder, walk, survey)
            if survey.is_clear:
                break
    except RefusedInput as refused:
        raise UsageError(f"{root}: cannot be listed: {refused}") from refused
    _leave_out_tables_without_media(root, survey, report)
    return survey


def _count(folder: Folder, walk: FolderWalk, survey: Survey) -> None:
    paths = (folder.prefix + name for name in folder.names if not name.endswith("/") or is_frame_folder(name))
    for path in filter(walk.is_chosen, paths):
        if survey.add(path) in (None, MEDIA):
            walk.report.skip_file(path)


def _leave_out_tables_without_media(root: Path, survey: Survey, report: ListingReport) -> None:
    """Leave out tables that only describe files beside them; one table is opened per family of file names."""
    families: dict[str, list[str]] = {}
    for path in sorted(survey.tables):
        families.setdefault(re.sub(r"[0-9a-f]{8,}|[0-9]+", "#", path), []).append(path)
    if not (survey.media.count or survey.tars or len(families) > 1):
        return
    kept = [family for family in families.values() if _has_media_column(root / family[0])]
    if not (kept or survey.media.count or survey.tars):
        return  # the source says what is wrong with its tables
    if not kept:
        survey.patterns.pop(TABLES, None)
    survey.tables = [path for family in kept for path in family]
    for path in (path for family in families.values() if family not in kept for path in family):
        report.skip("tables without a column of images or videos", path)


def _has_media_column(path: Path) -> bool:
    """Return False if a table can be read and has no column of images or videos."""
    try:
        with open_table(path) as table:
            schema = table.schema
    except (RefusedInput, UsageError):
        return True  # the source reports it
    try:
        Columns.from_schema(schema, str(path))
    except UsageError:
        return False
    return True


def _ambiguous(root: Path, survey: Survey) -> str:
    counts = [(MEDIA, survey.media.count), (TARS, len(survey.tars)), (TABLES, len(survey.tables))]
    found = ", ".join(f"{count} {kind}" for kind, count in counts if count)
    return f"{root}: contains {found}; choose one kind: {_globs(root, survey)}"


def _globs(root: Path, survey: Survey) -> str:
    patterns: Iterable[str] = (pattern for counts in survey.patterns.values() for pattern in sorted(counts))
    return ", ".join(f"'{root}/{pattern}'" for pattern in patterns)
