"""Upstream's layout: one file of `torch.save` per sample, and a list of them.

    list/train.json     {"prefix": "…/feature", "path_list": ["a.pth", …]}
    feature/a.pth       {"name": str, "images": int64 (h, w), or (t, h, w) for a video, "texts": str}

Source: Emu3, the scripts that prepare its training data.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.exchange.export_run import ExportRun
from shared.exchange.formats.safe_names import safe_name
from shared.exchange.formats.torch_files import dump_torch
from shared.exchange.formats.upstream_source import UpstreamSource
from shared.exchange.options import ImportOptions
from shared.jobs.signals import StopFlag
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json

FEATURE_FOLDER = "feature"
LIST_PATH = "list/train.json"


class UpstreamFiles:
    """Upstream's files as an exchange format. Implements `ExchangeFormat`."""

    description = f"upstream's {LIST_PATH}"

    def export(self, run: ExportRun, stop: StopFlag) -> None:
        """Write one file per row, then the list. Rows without codes are skipped and counted."""
        features, names = run.make_folder(FEATURE_FOLDER), list[str]()
        run.make_folder(PurePosixPath(LIST_PATH).parent.name)
        for row in run.read_rows():
            stop.raise_if_set(f"{len(names)} samples written")
            if not row.has_grid:
                run.skipped += 1
                continue
            names.append(f"{safe_name(row.key)}.pth")
            content, path = dump_sample(row), f"{FEATURE_FOLDER}/{names[-1]}"
            if run.needs_writing(path, len(content), hashlib.sha256(content).hexdigest()):
                run.write_unsynced(path, content)
        run.sync()  # once before the list, not once per sample
        prefix = run.options.prefix or str(features.absolute())
        listed = canonical_json({"prefix": prefix, "path_list": names})
        write_file(run.out / LIST_PATH, f"{listed}\n".encode())

    def recognizes(self, path: Path) -> bool:
        return _list_path(path).is_file()

    def open(self, path: Path, options: ImportOptions) -> UpstreamSource:
        if options.codec is None:
            raise UsageError(
                f"{options.source}: upstream's files do not name their codec; give --codebook-size or"
                " --vision-tokenizer"
            )
        settings = DatasetSettings(options.codec, unit_rows=options.unit_rows, imported={"from": "upstream list"})
        return UpstreamSource(_list_path(path), FEATURE_FOLDER, settings, options.max_refused_in_a_row)


def _list_path(path: Path) -> Path:
    return path if path.suffix == ".json" else path / LIST_PATH


def dump_sample(row: CodeRecord) -> bytes:
    """Return the file of a row, which holds only its key, codes and text."""
    codes = row.codes_THW.astype("<i8")
    return dump_torch({"name": row.key, "images": codes[0] if row.kind == "image" else codes, "texts": row.text or ""})
