"""`emu3 verify` on damaged datasets: all damage is detected and named, and none crashes it."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.dataset.commit import UnitResult
from tests.support import handmade
from tests.support.command import REPOSITORY, emu3, environment, verified_digest
from tests.support.flip import flip_bit

STRIDE = 199


def verify_damaged(dataset: Path, stride: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.support.damage", str(dataset), str(stride)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_named(line: dict[str, Any]) -> bool:
    """Whether the printed problem names the file, or the unit that it belongs to."""
    name, printed = line["file"], line["printed"]
    unit = re.match(r"part-(\d+)", name)
    return name in printed or (unit is not None and (unit[0] in printed or f"unit {int(unit[1])}:" in printed))


def assert_all_noticed(lines: list[dict[str, Any]]) -> None:
    """Except for a lost manifest, which is harmless: a run killed before it wrote its manifest has none either."""
    expected = [line for line in lines if (line["file"], line["what"]) != ("manifest.json", "deleted")]
    crashed = [line for line in expected if line["crashed"]]
    assert not crashed, f"{len(crashed)} of {len(expected)}: {some(crashed)}"
    silent = [line for line in expected if line["exit"] != 1]
    assert not silent, f"{len(silent)} of {len(expected)}: {some(silent)}"
    unnamed = [line for line in expected if not is_named(line)]
    assert not unnamed, f"{len(unnamed)} of {len(expected)}: {some(unnamed)}"


def some(lines: list[dict[str, Any]]) -> str:
    """Count failures by kind, with an example of each."""
    examples = {(line["file"], line["exit"], line["printed"][-70:].strip()): line["what"] for line in lines}
    counts = Counter((line["file"], line["exit"], line["printed"][-70:].strip()) for line in lines)
    return "\n" + "\n".join(f"{count} × {kind}: {examples[kind]}" for kind, count in counts.most_common(12))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A dataset with parts, records, quarantine, plan and manifest that verifies without problems."""
    dataset = handmade.make(tmp_path / "dataset").root
    assert verified_digest(dataset)
    assert len(list(dataset.rglob("*.*"))) == 7
    return dataset


def test_every_199th_byte_of_every_file(small: Path) -> None:
    lines = verify_damaged(small, STRIDE)
    assert len({line["file"] for line in lines}) == 7
    assert_all_noticed(lines)


@pytest.mark.slow
def test_every_7th_byte_of_every_file(small: Path) -> None:
    """Seven is coprime to the sizes of all fields, so every field is hit somewhere."""
    assert_all_noticed(verify_damaged(small, 7))


@pytest.mark.parametrize("pattern", ["parts/part-000000.*.arrow", "plan.arrow"])
def test_wild_string_offsets_do_not_crash_it(pattern: str, small: Path) -> None:
    """Arrow trusts the offsets of strings in a file: without a check first, it would read anywhere in memory."""
    (path,) = small.glob(pattern)
    data, offsets = path.read_bytes(), struct.pack("<4i", 0, 3, 6, 11)  # of the keys one, two, three
    assert offsets in data
    path.write_bytes(data.replace(offsets, struct.pack("<4i", 0, 0x7000_0000, 0x7100_0000, 0x7200_0000)))
    assert path.name in emu3("verify", small, exit_code=1).stderr


def test_exchanged_parts_are_noticed(small: Path, tmp_path: Path) -> None:
    """Another dataset's valid part has the name of this one's part."""
    other = handmade.make(tmp_path / "other", ("one", "two", "other")).root
    (mine,), (theirs,) = (list((root / "parts").glob("part-000000.*.arrow")) for root in (small, other))
    mine.write_bytes(theirs.read_bytes())
    assert mine.name in emu3("verify", small, exit_code=1).stderr


def test_damaged_rows_are_listed(small: Path) -> None:
    """After a flipped bit in its codes, the row is named, so that the user knows what is lost."""
    (part,) = (small / "parts").glob("part-000000.*.arrow")
    flip_bit(part, handmade.record(1, "two").codes_bytes)
    printed = emu3("verify", small, exit_code=1).stderr
    assert "'two'" in printed
    assert "'one'" not in printed


def test_unknown_part_is_noticed(small: Path) -> None:
    stray = small / "parts" / "part-000007.0123456789ab.arrow"
    stray.write_bytes(b"")
    assert stray.name in emu3("verify", small, exit_code=1).stderr


def test_an_incomplete_dataset_says_how_much_is_missing(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "d", ["one", "two"], refused=3)
    dataset.commit(UnitResult(0, [handmade.record(0, "one"), handmade.record(1, "two")]), plan)
    (dataset.parts / "part-000001.0123456789ab.arrow").write_bytes(b"")
    done = emu3("verify", dataset.root)
    assert "1 of 2 units, 2 rows, 0 quarantined; NOT complete: 3 inputs are missing" in done.stderr
    assert "digest of 1 of 2 units" in done.stderr
    assert "in progress, or left by a killed job" in done.stderr
    assert "part-000001.0123456789ab.arrow" in done.stderr
    assert len(done.stdout.strip()) == 64


def test_no_dataset_at_all(tmp_path: Path) -> None:
    assert "plan.arrow" in emu3("verify", tmp_path, exit_code=2).stderr
    assert "plan.arrow" in emu3("verify", tmp_path / "nowhere", exit_code=2).stderr
