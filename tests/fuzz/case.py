"""One case: a folder with one mutated file, read in a forked process with limits on time and memory."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from shared.errors import RelayError
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import TARGETS

CPU_S, WALL_S = 20, 240  # a hang; the second is large because other programs may use the processor
MAX_MEMORY_BYTES = 1 << 30
MAX_ADDRESS_BYTES = 6 << 30  # stops what would fill the machine before its memory is measured
REFUSED, TRACEBACK = 10, 11


@dataclass(frozen=True)
class Case:
    """A target, the folder that it reads, the file that was replaced, and its new content."""

    target: str
    template: Path
    file: str
    content: bytes

    @classmethod
    def generate(cls, target: str, template: Path, seed: int, number: int) -> Case:
        """Mutate one file of a template; the same arguments give the same case."""
        random_ = random.Random(f"{seed}/{target}/{number}")
        files = sorted(str(path.relative_to(template)) for path in template.rglob("*") if path.is_file())
        file = random_.choice([name for name in files if TARGETS[target].is_mutated(name)])
        others = [(template / name).read_bytes() for name in files if Path(name).suffix == Path(file).suffix]
        return cls(target, template, file, mutate((template / file).read_bytes(), Path(file).suffix, others, random_))

    def write(self, folder: Path) -> None:
        shutil.copytree(self.template, folder, dirs_exist_ok=True)
        (folder / self.file).write_bytes(self.content)


@dataclass(frozen=True)
class Outcome:
    """`kind` is accepted or refused, or of a Failure: crash, hang, traceback or memory."""

    kind: str
    memory_bytes: int


@dataclass(frozen=True)
class Failure(Outcome):
    case: str
    output: str

    def __str__(self) -> str:
        again = f"python -m tests.fuzz --reproduce {self.case}"
        return f"FAILURE {self.kind} ({self.memory_bytes >> 20} MiB): {again}\n{self.output[-1500:]}"


def run_case(case: Case, failures: Path | None) -> Outcome:
    """Run a case in a forked process; save a failing one below `failures`."""
    with tempfile.TemporaryDirectory(prefix="emu3-fuzz-case-") as name:
        folder, log = Path(name) / "input", Path(name) / "output.txt"
        case.write(folder)
        process = os.fork()
        if not process:
            _run_child(case, folder, log)
        _, status, usage = os.wait4(process, 0)
        memory_bytes = usage.ru_maxrss << 10
        kind = _kind(status, memory_bytes)
        if kind in ("accepted", "refused"):
            return Outcome(kind, memory_bytes)
        output = log.read_text(errors="replace") if log.is_file() else ""
        return Failure(kind, memory_bytes, str(_saved(case, folder, kind, failures)), output)


def reproduce(folder: Path) -> Outcome:
    """Run a saved case again."""
    saved = json.loads((folder / "case.json").read_text())
    content = (folder / "input" / saved["file"]).read_bytes()
    return run_case(Case(saved["target"], folder / "input", saved["file"], content), None)


def _kind(status: int, memory_bytes: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return "hang"
    if memory_bytes > MAX_MEMORY_BYTES:
        return "memory"
    return {0: "accepted", REFUSED: "refused", TRACEBACK: "traceback"}.get(code, "crash")


def _saved(case: Case, folder: Path, kind: str, failures: Path | None) -> Path:
    if failures is None:
        return folder.parent
    failures.mkdir(parents=True, exist_ok=True)
    saved = Path(tempfile.mkdtemp(prefix=f"{case.target}-{kind}-", dir=failures))
    case.write(saved / "input")
    (saved / "case.json").write_text(json.dumps({"target": case.target, "file": case.file}))
    return saved


def _run_child(case: Case, folder: Path, log: Path) -> None:
    """Read the folder and exit: 0 accepted, REFUSED with an error meant for the user, TRACEBACK with any other."""
    code = TRACEBACK
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = open(output, "w", errors="backslashreplace", closefd=False)
        faulthandler.enable(sys.stderr)
        os.chdir(folder.parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        signal.alarm(WALL_S)
        try:
            TARGETS[case.target].read(folder, folder / case.file)
            code = 0
        except RelayError as error:
            print(error)
            code = REFUSED
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
