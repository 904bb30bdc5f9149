"""Checksums of the files of a model or a checkpoint, in `checksums.json` beside them, which reveal a flipped bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_stage.model.safetensors_writer import TensorFile, read_collective, write_safetensors
from shared.errors import CheckpointError, DatasetError
from shared.storage.atomic import replaced_directory, write_file
from shared.storage.checked_json import dump_checked_json, read_checked_json
from shared.storage.paths import MISSING, names_in, sha256_of

CHECKSUMS_FILE = "checksums.json"
Files = Mapping[str, bytes | TensorFile]  # the contents of a directory by file name


def write_with_checksums(directory: Path, files: Files) -> None:
    """Write files, and the file with their checksums, into a directory; tensors are streamed."""
    digests = {}
    for name, content in files.items():
        if isinstance(content, bytes):
            write_file(directory / name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        else:
            digests[name] = write_safetensors(directory / name, content)
    write_file(directory / CHECKSUMS_FILE, dump_checked_json({"sha256": digests}))


def take_part(files: Files) -> None:
    """Do what the process that writes these files needs the others for: their parts of collective tensors."""
    for content in files.values():
        if not isinstance(content, bytes):
            read_collective(content)


def write_model_directory(directory: Path, files: Files) -> None:
    """Create or replace a directory of files with checksums. On failure the old directory stays."""
    with replaced_directory(directory) as temporary:
        write_with_checksums(temporary, files)


def has_checksums(directory: Path) -> bool:
    """Whether the directory has checksums; earlier versions and other programs wrote none."""
    return (directory / CHECKSUMS_FILE).exists()


def check_files(directory: Path, may_be_missing: bool = False) -> None:
    """Compare files with their checksums, if there are any. Raises CheckpointError, naming every damaged file."""
    if not has_checksums(directory):
        return
    digests = sorted(_digests(directory).items())
    problems = [_problem(directory / name, digest, may_be_missing) for name, digest in digests]
    if damaged := [problem for problem in problems if problem]:
        raise CheckpointError(f"{directory}: {'; '.join(damaged)}")


def is_intact(directory: Path) -> bool:
    """Whether all files match their checksums, if there are any."""
    try:
        check_files(directory)
    except CheckpointError:
        return False
    return True


def has_files_of(directory: Path, other: Path) -> bool:
    """Whether a directory has the files of another one that has checksums, and perhaps more."""
    path = directory / CHECKSUMS_FILE
    return path.is_file() and path.read_bytes() == (other / CHECKSUMS_FILE).read_bytes() and is_intact(directory)


def is_as_written(directory: Path) -> bool:
    """Whether a directory has the files that were written with its checksums, and no others."""
    return (
        has_checksums(directory)
        and is_intact(directory)
        and set(names_in(directory)) == {*_digests(directory), CHECKSUMS_FILE}
    )


def _digests(directory: Path) -> dict[str, str]:
    """Return the recorded checksums by file name. Raises CheckpointError if they are damaged."""
    try:
        digests = read_checked_json(directory / CHECKSUMS_FILE).get("sha256")
    except DatasetError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(digests, dict) or not all(_is_entry(name, digest) for name, digest in digests.items()):
        raise CheckpointError(
            f"{directory / CHECKSUMS_FILE}: expected the SHA-256 of files beside it, got {digests!r:.60}"
        )
    return digests


def _is_entry(name: str, digest: Any) -> bool:
    return Path(name).name == name and isinstance(digest, str)


def _problem(path: Path, expected: str, may_be_missing: bool) -> str:
    try:
        found = sha256_of(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error}"
    if found == expected or (found == MISSING and may_be_missing):
        return ""
    return (
        f"{path.name} is missing"
        if found == MISSING
        else f"{path.name} is damaged: sha256 {found[:12]} expected {expected[:12]}"
    )
