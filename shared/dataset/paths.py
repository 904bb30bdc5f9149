"""The files of a dataset.

plan.arrow, plan-0001.arrow, …       the work list and its additions
parts/part-000123.<hash>.arrow       the rows of a committed unit
parts/part-000123.json               its commit record
quarantine/part-000123.<hash>.jsonl  its refused inputs
shards/codes-00012.<hash>.arrow      the rows of many units, written by `emu3 seal`
index/keys.<hash>.arrow              where the row of each key is in the shards
texts/texts-0001.<hash>.arrow        corrected captions of rows, written by `emu3 encode --update-texts`
manifest.json                        all parts and shards, once every unit is committed
canary.json                          codes of fixed images, to notice a device that computes something else
partial/, claims/, damaged/          units in progress, and damaged commit records during a repair
events.jsonl                         a progress log
"""

from __future__ import annotations

import re
from pathlib import Path

from shared.errors import DatasetError, UsageError
from shared.storage.paths import as_path, check_link, is_local, names_in

_UNIT_NAME = re.compile(r"part-(\d{6,})(\..*)")


def unit_and_suffix(name: str) -> tuple[int, str] | None:
    """Return the unit that the name of a file belongs to and the rest of the name, None for other files."""
    match = _UNIT_NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match and match[1].isascii() else None


class DatasetPaths:
    """The paths of one dataset, local or remote."""

    def __init__(self, root: str | Path):
        self.root = as_path(root)
        self.parts = self.root / "parts"
        self.shards = self.root / "shards"
        self.index = self.root / "index"
        self.quarantine = self.root / "quarantine"
        self.damaged = self.root / "damaged"
        self.text_updates = self.root / "texts"
        self.claims = self.root / "claims"
        self.partial = self.root / "partial"
        self.plan_path = self.root / "plan.arrow"
        self.manifest_path = self.root / "manifest.json"
        self.canary_path = self.root / "canary.json"
        self.events_path = self.root / "events.jsonl"

    def record_path(self, unit: int) -> Path:
        return self.parts / f"part-{unit:06d}.json"

    def claim_path(self, unit: int) -> Path:
        return self.claims / f"part-{unit:06d}"

    def partial_path(self, unit: int) -> Path:
        """Return where the finished rows of an interrupted unit are kept."""
        return self.partial / f"part-{unit:06d}.arrow"

    def journal_path(self, unit: int) -> Path:
        """Return where the language stage keeps the tokens of unfinished sequences."""
        return self.partial / f"part-{unit:06d}.journal"


def check_output(root: Path) -> None:
    """Refuse to write a dataset where something else is: a file, a folder of other files, or units without their plan.

    Raises UsageError or DatasetError. Nothing is changed.
    """
    paths = DatasetPaths(root)
    if not is_local(root) or paths.plan_path.is_file():
        return
    check_link(root)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: expected a folder for a dataset, but it is a file; use another name")
    ours = {path.name for path in vars(paths).values() if path != root}
    if foreign := sorted(name for name in names_in(root) if name not in ours and not _is_ignored(name)):
        shown = ", ".join(foreign[:4]) + (" …" if len(foreign) > 4 else "")
        raise UsageError(f"{root}: expected a dataset or an empty folder, found {shown}; use another folder")
    if any(name.endswith(".json") for name in names_in(paths.parts)):
        raise DatasetError(f"{paths.plan_path}: missing, but the folder has committed units; restore it from a copy")


def _is_ignored(name: str) -> bool:
    """Whether a file is hidden, belongs to an operating system, or was left by a killed job."""
    return name.startswith((".", "__MACOSX")) or name.endswith(".tmp") or name in ("Thumbs.db", "lost+found")
