"""Kills commands at random moments, runs them again until they succeed, and compares the digests of the results.

    python -m tests.faults.kill_many [--times 100] [--seed 0] [--only encode --only run …] [--stand-in] [--work DIR]

Each command works on tiny inputs with real models, in a fork of this process, which has loaded the libraries. It is
killed by SIGKILL, alternately together with its process group and alone, as the system does when memory is short, so
that its children must notice. It is restarted at once. When it succeeds, its result is compared with that of an
undisturbed run; then it starts from scratch, until it has been killed often enough. Exits with 1 if a digest
differs or a restarted command fails. With --stand-in, models that compute nothing replace those of encode, generate and
repair, so that a hundred kills of each take minutes on a slow machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import click
import yaml

from shared.dataset.dataset import Dataset
from shared.maintenance.verify import verify_dataset
from tests.support.captioned_codes import write_codes
from tests.support.command import INTERRUPTED, REPOSITORY, TOKENIZER, environment
from tests.support.forking import start_forked
from tests.support.models import write_language_model
from tests.support.pictures import save_picture
from tests.support.step_by_step import stand_in

PICTURES = 12
ENCODE = ("--vision-tokenizer", str(TOKENIZER), "--resize", "none", "--unit-rows", "2", "--batch-pixels", "768")
GENERATE = ("--height", "32", "--width", "64", "--batch-size", "2", "--unit-rows", "2", "--journal-rows", "1")
SFT = ("--steps", "12", "--seq-length", "64", "--micro-batch-size", "2", "--save-every", "2")
INPUTS = ("pictures", "prompts.jsonl", "model", "codes", "encoded", "pipeline.yaml")
LOADED_ONCE = (
    "mindspore",
    "vq_stage.tokenizer",
    "vq_stage.encode.repair",
    "lm_stage.language_model",
    "lm_stage.generate.job",
    "lm_stage.training.job",
    "pipelines.workflow.runner",
    "pipelines.report.html",
)
COMMAND_LIMIT_S = 600.0
MAX_RETRIES = 20  # while processes without a parent still hold units


@dataclass(frozen=True, slots=True)
class Case:
    """A command: what it works on, its arguments in a folder of its own, and the digest of its result."""

    name: str
    arguments: Callable[[Path], Sequence[object]]
    digest: Callable[[Path], str]
    prepare: Callable[[Path], object] = lambda folder: None
    has_stand_in: bool = False

    def start(self, folder: Path, log: Path) -> int:
        return start(self.arguments(folder), log, self.has_stand_in)


@dataclass(slots=True)
class Outcome:
    """What became of one command: its undisturbed digest, the digests of all disturbed results, and failures."""

    name: str
    expected: str
    kills: int = 0
    digests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return not self.failures and set(self.digests) == {self.expected}


def start(arguments: Sequence[object], log: Path, has_stand_in: bool) -> int:
    """Start `emu3 arguments…` as the leader of a process group, with a model or its stand-in; return its process id."""

    def prepare() -> None:
        os.setsid()
        if has_stand_in:
            stand_in()

    with log.open("ab") as output:
        return start_forked([str(argument) for argument in arguments], output.fileno(), prepare)


def exit_code_within(pid: int, limit_s: float) -> int | None:
    """Return the exit code of a command, None if it is still running after `limit_s`."""
    until_s = time.monotonic() + limit_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until_s:
            return None
        time.sleep(0.002)


def in_child(function: Callable[[], str]) -> str:
    """Call a function in a fork, because libraries that have started threads must not be in this process."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, function().encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        result = file.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("see the traceback above")
    return result


def run_case(case: Case, times: int, work: Path, chance: random.Random) -> Outcome:
    """Kill a command `times` times in all, at moments between its start and the duration of an undisturbed run."""
    log = work / f"{case.name}.log"
    undisturbed = _fresh(case, work)
    began_s = time.monotonic()
    if exit_code := exit_code_within(case.start(undisturbed, log), COMMAND_LIMIT_S):
        return Outcome(case.name, "", failures=[f"undisturbed: exit {exit_code}, see {log}"])
    duration_s = time.monotonic() - began_s
    outcome = Outcome(case.name, in_child(partial(case.digest, undisturbed)))
    while outcome.kills < times and not outcome.failures:
        folder = _fresh(case, work)
        _disturb(case, folder, log, outcome, times, lambda: chance.uniform(0, duration_s))
        if not outcome.failures:
            outcome.digests.append(in_child(partial(case.digest, folder)))
    return outcome


def _disturb(case: Case, folder: Path, log: Path, outcome: Outcome, times: int, delay_s: Callable[[], float]) -> None:
    """Kill and restart a command until it has succeeded."""
    retries = 0
    while True:
        pid, is_last = case.start(folder, log), outcome.kills >= times
        exit_code = exit_code_within(pid, COMMAND_LIMIT_S if is_last else delay_s())
        if exit_code is None:
            (os.kill if outcome.kills % 2 else kill_group)(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if is_last:
                outcome.failures.append(f"it still runs after {COMMAND_LIMIT_S:.0f} s, see {log}")
                return
            outcome.kills += 1
            continue
        if exit_code == 0:
            return
        retries += 1
        if exit_code != INTERRUPTED or retries > MAX_RETRIES:
            outcome.failures.append(f"run again after {outcome.kills} kills: exit {exit_code}, see {log}")
            return


def kill_group(pid: int, number: signal.Signals) -> None:
    """Signal a process group, or its leader alone if that was too young to have become one."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        os.kill(pid, number)


def _fresh(case: Case, work: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"{case.name}-", dir=work))
    case.prepare(folder)
    return folder


def dataset_digest(folder: Path, name: str = "dataset") -> str:
    """Return the digest of a complete, undamaged dataset; anything else is described in its place."""
    report = verify_dataset(Dataset(folder / name))
    if report.problems or not report.is_complete:
        return "; ".join([f"{report.units} of {report.planned_units} units", *report.problems])
    return report.digest


def sealed_digest(folder: Path) -> str:
    """Also require that all rows are in shards, and no parts are left."""
    left = [path.name for path in (folder / "dataset/parts").glob("*.arrow")]
    return f"{dataset_digest(folder)}{' and parts ' + ' '.join(left) if left else ''}"


def files_digest(folder: Path, *patterns: str) -> str:
    """Hash the names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def run_digest(folder: Path) -> str:
    combined = dataset_digest(folder, "out/codes") + files_digest(folder, "out/pictures/**/*.png")
    return hashlib.sha256(combined.encode()).hexdigest()


def write_inputs(inputs: dict[str, Path]) -> str:
    """Write pictures, prompts, a language model, a dataset to train on, and a pipeline."""
    for number in range(PICTURES):
        save_picture(inputs["pictures"] / f"picture-{number:02d}.png", number)
    lines = (json.dumps({"key": f"k{n}", "prompt": "an apple " * n + "!"}) for n in range(6))
    inputs["prompts.jsonl"].write_text("\n".join(lines))
    write_language_model(inputs["model"])
    write_codes(inputs["codes"])
    options = dict(zip((name.removeprefix("--") for name in ENCODE[::2]), ENCODE[1::2]))
    steps = {
        "codes": {"run": "encode", "source": str(inputs["pictures"]), "workers": 2, **options},
        "pictures": {"run": "decode", "dataset": "${codes}", "vision-tokenizer": str(TOKENIZER)},
    }
    inputs["pipeline.yaml"].write_text(yaml.safe_dump({"steps": steps}))
    return "written"


def damaged_copy(source: Path, folder: Path) -> None:
    """Copy a dataset and damage half of its parts."""
    shutil.copytree(source, folder / "dataset")
    for part in sorted((folder / "dataset/parts").glob("*.arrow"))[::2]:
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)


def cases(inputs: dict[str, Path], has_stand_in: bool) -> list[Case]:
    copy_encoded = partial(shutil.copytree, inputs["encoded"])
    return [
        Case(
            "encode",
            lambda folder: ("encode", inputs["pictures"], folder / "dataset", *ENCODE),
            dataset_digest,
            has_stand_in=has_stand_in,
        ),
        Case(
            "generate",
            lambda folder: (
                *("generate", inputs["prompts.jsonl"], folder / "dataset", "--model", inputs["model"], *GENERATE),
            ),
            dataset_digest,
            has_stand_in=has_stand_in,
        ),
        Case(
            "sft",
            lambda folder: ("sft", inputs["codes"], folder / "run", "--model", inputs["model"], *SFT),
            lambda folder: files_digest(folder, "run/model/*", "run/checkpoints/step-00000012/*.safetensors"),
        ),
        Case(
            "seal",
            lambda folder: ("seal", folder / "dataset", "--shard-mb", "1"),
            sealed_digest,
            lambda folder: copy_encoded(folder / "dataset"),
        ),
        Case(
            "repair",
            lambda folder: (
                *("repair", folder / "dataset", inputs["pictures"], "--vision-tokenizer", TOKENIZER, "--device", "cpu"),
            ),
            dataset_digest,
            partial(damaged_copy, inputs["encoded"]),
            has_stand_in,
        ),
        Case("run", lambda folder: ("run", inputs["pipeline.yaml"], "--out", folder / "out"), run_digest),
    ]


def print_table(outcomes: Sequence[Outcome]) -> None:
    click.echo(f"{'command':<10} {'kills':>5} {'results':>7}  undisturbed   disturbed")
    for outcome in outcomes:
        found = " ".join(sorted({digest[:12] for digest in outcome.digests})) or "-"
        verdict = "equal" if outcome.is_equal else "DIFFERENT " + "; ".join(outcome.failures)
        counts = f"{outcome.name:<10} {outcome.kills:>5} {len(outcome.digests):>7}"
        click.echo(f"{counts}  {outcome.expected[:12]}  {found}  {verdict}")


@click.command()
@click.option("--times", default=100, show_default=True, help="Kills of each command.")
@click.option("--seed", default=0, show_default=True, help="Seed of the moments.")
@click.option("--only", multiple=True, metavar="COMMAND", help="Test this command; may be repeated.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for inputs, results and logs, which are kept.")
@click.option("--stand-in", "has_stand_in", is_flag=True, help="Replace the models of encode, generate and repair.")
def main(times: int, seed: int, only: tuple[str, ...], work: Path | None, has_stand_in: bool) -> None:
    """Kill each command TIMES times and compare the digests of the results with those of undisturbed runs."""
    os.environ.update(environment())
    for module in LOADED_ONCE:
        import_module(module)
    os.chdir(REPOSITORY)
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {name: folder.resolve() / name for name in INPUTS}
        in_child(partial(write_inputs, inputs))
        command = ("encode", inputs["pictures"], inputs["encoded"], *ENCODE)
        if exit_code_within(start(command, folder / "inputs.log", has_stand_in), COMMAND_LIMIT_S):
            raise click.ClickException(f"emu3 encode failed: see {folder / 'inputs.log'}")
        chosen = [case for case in cases(inputs, has_stand_in) if case.name in (only or case.name)]
        outcomes = []
        for case in chosen:
            outcomes.append(run_case(case, times, folder, random.Random(f"{seed} {case.name}")))
            print_table(outcomes[-1:])
        if work is None and any(outcome.failures for outcome in outcomes):
            click.echo("give --work to keep the logs", err=True)
    click.echo()
    print_table(outcomes)
    sys.exit(not all(outcome.is_equal for outcome in outcomes))


if __name__ == "__main__":
    main()
