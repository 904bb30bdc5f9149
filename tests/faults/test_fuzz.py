"""The fuzzer itself: it reads intact inputs, and notices whatever a reader must not do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import UsageError
from tests.fuzz import case as fuzz_case
from tests.fuzz.case import Case, Failure, run_case
from tests.fuzz.targets import TARGETS, Target

REPOSITORY = Path(__file__).parents[2]


def refuse() -> None:
    raise UsageError("refused")


def loop() -> None:
    while True:
        pass


BEHAVIOR: dict[str, tuple[Callable[[], object], str]] = {
    "returns": (lambda: None, "accepted"),
    "refuses": (refuse, "refused"),
    "fails": (lambda: {}["a defect"], "traceback"),
    "exits": (sys.exit, "traceback"),
    "crashes": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crash"),
    "loops": (loop, "hang"),
}


@pytest.mark.parametrize("name", BEHAVIOR)
def test_what_a_reader_does_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave, kind = BEHAVIOR[name]
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "file").write_bytes(b"intact")
    monkeypatch.setattr(fuzz_case, "CPU_S", 1)
    monkeypatch.setattr(fuzz_case, "MAX_MEMORY_BYTES", 1 << 40)
    monkeypatch.setattr(fuzz_case, "MAX_ADDRESS_BYTES", 1 << 45)
    monkeypatch.setitem(TARGETS, "toy", Target(lambda folder: None, lambda folder, file: behave()))  # type: ignore[arg-type, return-value]
    outcome = run_case(Case("toy", tmp_path / "template", "file", b"mutated"), tmp_path / "failures")
    assert outcome.kind == kind
    if isinstance(outcome, Failure):
        assert (Path(outcome.case) / "input" / "file").read_bytes() == b"mutated"
        assert fuzz_case.reproduce(Path(outcome.case)).kind == kind


def test_the_same_seed_gives_the_same_case(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"a": [1, 2, {"b": "text"}]}')
    cases = [[Case.generate("yaml", tmp_path, seed, number) for number in range(20)] for seed in (1, 1, 2)]
    assert cases[0] == cases[1] != cases[2]


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    arguments = ["--cases", str(len(TARGETS)), "--jobs", "1", "--seed", "2", "--failures", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"seed 2: {len(TARGETS)} cases, 0 failures" in done.stdout
