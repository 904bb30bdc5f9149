"""A directory that is replaced as those of models and checkpoints are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shared.storage.atomic import replaced_directory, write_file


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    with replaced_directory(directory) as temporary:
        for name, content in files.items():
            write_file(temporary / name, content)
