"""Commands that must refuse or answer before MindSpore is imported."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click import Group

from pipelines.cli import main
from tests.support.command import ENCODE, MODEL, REPOSITORY, SMALL_UNITS, TOKENIZER, emu3
from tests.support.file_digests import file_digests

HELP_LIMIT_S = 0.5
FRAMEWORKS = {"mindspore", "mindone", "torch", "transformers", "ray"}
LIBRARIES = {"pyarrow", "numpy", "PIL", "av", "fsspec"}
COMMANDS = sorted(main.commands) if isinstance(main, Group) else []


@pytest.fixture(scope="session")
def without_mindspore(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which importing MindSpore, mindone or torch is an error."""
    folder = tmp_path_factory.mktemp("without")
    for name in ("mindspore", "mindone", "torch", "transformers"):
        (folder / f"{name}.py").write_text(f"raise SystemError('{name} was imported')\n")
    return {"PYTHONPATH": f"{folder}:{REPOSITORY}"}


@pytest.fixture(scope="session")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden tokenizer with one bit of one weight changed."""
    folder = tmp_path_factory.mktemp("other") / "tokenizer"
    shutil.copytree(TOKENIZER, folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    return folder


@pytest.fixture
def dataset(unbroken: Path, tmp_path: Path) -> Path:
    shutil.copytree(unbroken, tmp_path / "dataset")
    for path in (tmp_path / "dataset" / "parts").glob("part-000002.*"):
        path.unlink()  # so that some work is left
    return tmp_path / "dataset"


def replaced(options: Sequence[str], name: str, value: str) -> list[str]:
    index = list(options).index(name) + 1
    return [*options[:index], value, *options[index + 1 :]]


def test_the_trap_works(dataset: Path, pictures: Path, without_mindspore: dict[str, str]) -> None:
    """With the recorded settings the model is needed, and importing MindSpore fails."""
    with pytest.raises(AssertionError, match="mindspore was imported"):
        emu3("encode", pictures, dataset, *ENCODE, *SMALL_UNITS, **without_mindspore)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("--vision-tokenizer", "other", "codec.fingerprint: recorded"),
        ("--resize", "processor", 'preprocessing.rule: recorded "none", given "processor"'),
        ("--unit-rows", "3", "units.rows: recorded 2, given 3"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    name: str,
    value: str,
    shown: str,
    dataset: Path,
    pictures: Path,
    other_tokenizer: Path,
    without_mindspore: dict[str, str],
) -> None:
    before = file_digests(dataset)
    options = replaced([*ENCODE, *SMALL_UNITS], name, str(other_tokenizer) if value == "other" else value)
    done = emu3("encode", pictures, dataset, *options, exit_code=2, **without_mindspore)
    assert shown in done.stderr
    assert "new dataset" in done.stderr
    assert file_digests(dataset) == before


def test_a_complete_dataset_needs_no_mindspore(
    unbroken: Path, pictures: Path, without_mindspore: dict[str, str], tmp_path: Path
) -> None:
    """A lost manifest is written again, byte for byte."""
    shutil.copytree(unbroken, tmp_path / "dataset")
    (tmp_path / "dataset" / "manifest.json").unlink()
    emu3("encode", pictures, tmp_path / "dataset", *ENCODE, *SMALL_UNITS, **without_mindspore)
    written = (tmp_path / "dataset" / "manifest.json").read_bytes()
    assert written == (unbroken / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["{pictures}", "{out}", "--unit-rows", "0"], "--unit-rows 0"),
        (["{pictures}", "{out}", "--round-to", "12"], "--round-to 12"),
        (["{pictures}", "{out}", "--resize", "area", "--area", "0"], "--area 0"),
        (["{pictures}", "{out}", "--reader-threads", "0"], "--reader-threads 0"),
        (["{pictures}", "{out}", "--vision-tokenizer", "{out}/nowhere"], "nowhere"),
        (["{out}/nowhere", "{out}", *MODEL], "nowhere"),
        (["{pictures}"], "DATASET"),
    ],
)
def test_bad_usage(
    arguments: list[str], shown: str, pictures: Path, without_mindspore: dict[str, str], tmp_path: Path
) -> None:
    filled = [argument.format(pictures=pictures, out=tmp_path / "out") for argument in arguments]
    assert shown in emu3("encode", *filled, exit_code=2, **without_mindspore).stderr
    assert not (tmp_path / "out").exists()


def test_reading_commands_need_no_mindspore(
    unbroken: Path, without_mindspore: dict[str, str], other_tokenizer: Path, tmp_path: Path
) -> None:
    emu3("verify", unbroken, **without_mindspore)
    emu3("inspect", unbroken, "--json", **without_mindspore)
    refused = emu3(
        "decode", unbroken, tmp_path / "out", "--vision-tokenizer", other_tokenizer, exit_code=2, **without_mindspore
    )
    assert "for the codes of" in refused.stderr
    assert not list(tmp_path.rglob("*.png"))


def imported_packages(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the packages that a command imported, from its own import profile on stderr."""
    return {package for package in re.findall(r"^import time: .*\| +(\w+)", done.stderr, re.MULTILINE)}


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda words: " ".join(words) or "emu3")
def test_help_imports_nothing_heavy(command: list[str], without_mindspore: dict[str, str]) -> None:
    done = emu3(*command, "--help", **without_mindspore, PYTHONPROFILEIMPORTTIME="1")
    assert "Usage:" in done.stdout
    packages = imported_packages(done)
    assert {"click", "pipelines"} <= packages, "the profile was not read"
    assert packages & (FRAMEWORKS | LIBRARIES) == set()


@pytest.mark.slow
def test_help_is_quick(without_mindspore: dict[str, str]) -> None:
    took_s = []
    for _ in range(5):
        started_s = time.monotonic()
        emu3("encode", "--help", **without_mindspore)
        took_s.append(time.monotonic() - started_s)
    assert min(took_s) < HELP_LIMIT_S


def test_commands_are_known() -> None:
    assert {"encode", "decode", "inspect", "verify", "train-vq"} <= set(COMMANDS)


def test_decode_of_a_broken_model_option(unbroken: Path, without_mindspore: dict[str, str], tmp_path: Path) -> None:
    done = emu3("decode", unbroken, tmp_path / "out", *MODEL, "--quality", "0", exit_code=2, **without_mindspore)
    assert "--quality 0" in done.stderr
