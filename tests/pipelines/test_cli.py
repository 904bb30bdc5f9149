"""The command line: help, documentation, exit codes; and a round trip from pictures to codes and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.cli import main
from tests.support.step_by_step import stand_in_tokenizer
from tests.support.toy_results import committed, has_ended, started, wait_until
from tests.support.toy_worker import PATIENCE_S

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_in_the_readme_and_has_help(command: str) -> None:
    assert f"`{command}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    text = main.commands[command].help or ""
    assert text[0].isupper()
    assert text.rstrip().endswith(".")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert len(out.splitlines()) > 5


OPTIONS = [
    pytest.param(param, id=f"{name} {param.opts[0]}")
    for name, command in sorted(main.commands.items())
    for param in command.params
    if isinstance(param, click.Option)
]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_help(option: click.Option) -> None:
    """Help is a phrase or sentence that begins with a capital letter, or with a choice, and ends with a period."""
    text = option.help or ""
    assert len(text.split()) >= 3
    assert text[0].isupper() or text.split()[0] in (option.type.to_info_dict().get("choices") or ())
    assert text.endswith(".")
    assert "default" not in text, "the default is shown by click"


def test_the_list_of_commands_loads_neither_stage() -> None:
    """`emu3 --help` imports click and little else, so it is quick."""
    script = (
        "import sys; from pipelines.cli import main; main(['--help'], standalone_mode=False);"
        "loaded = {name.partition('.')[0] for name in sys.modules};"
        "print(*loaded & {'mindspore', 'numpy', 'pyarrow', 'av', 'vq_stage', 'lm_stage'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "encode" in done.stdout
    assert not done.stdout.splitlines()[-1]


def test_round_trip(picture_folder: Path, golden_vq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tokenizer(monkeypatch)
    dataset, out, sheet = str(tmp_path / "codes"), tmp_path / "out", tmp_path / "sheet.png"
    tokenizer = ("--vision-tokenizer", str(golden_vq))
    (picture_folder / "broken.png").write_bytes(b"no picture")
    encode = ("encode", str(picture_folder), dataset, *tokenizer, "--resize", "none", "--unit-rows", "5")
    code, _, err = run(*encode)
    assert (code, "12 rows encoded, 1 quarantined" in err) == (0, True), err

    code, stdout, _ = run("inspect", dataset, "--json", "--sheet", str(sheet), *tokenizer)
    summary = json.loads(stdout)
    assert code == 0
    assert (summary["rows"], summary["planned_rows"], summary["captions"]) == (12, 13, 12)
    assert summary["sizes"] == {"2x3": 12}
    assert summary["quarantined"] == {"not_an_image": 1}
    assert summary["quality_samples"] == 3
    with Image.open(sheet) as drawn:
        assert drawn.size[0] > 200
    assert "not_an_image (1)" in run("inspect", dataset)[1]

    code, digest, err = run("verify", dataset)
    assert (code, len(digest.strip())) == (0, 64)
    assert "complete" in err

    code, _, err = run(*encode)
    assert (code, "0 rows encoded" in err) == (0, True)
    assert run("verify", dataset)[1] == digest

    code, _, err = run("decode", dataset, str(out), *tokenizer, "--format", "webp")
    assert (code, "12 files written" in err) == (0, True)
    assert np.asarray(Image.open(out / "picture-03.webp")).shape == (16, 24, 3)
    assert "0 files written, 12 already present" in run("decode", dataset, str(out), *tokenizer, "--format", "webp")[2]


def test_refusals_exit_with_2_and_give_the_reason(
    picture_folder: Path, golden_vq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_tokenizer(monkeypatch)
    dataset = str(tmp_path / "codes")
    base = ("encode", str(picture_folder), dataset, "--vision-tokenizer", str(golden_vq), "--resize", "none")
    assert run(*base)[0] == 0
    code, _, err = run(*base, "--unit-rows", "7")
    assert (code, "units.rows: recorded 256, given 7" in err) == (2, True), err
    code, _, err = run("encode", str(tmp_path / "nowhere"), dataset)
    assert (code, "none of these" in err) == (2, True)
    code, _, err = run("decode", dataset, str(tmp_path / "out"))
    assert (code, "for the codes of" in err) == (2, True), err
    code, _, err = run(*base, "--batch-pixels", "0")
    assert (code, "at least 1" in err) == (2, True)
    code, _, err = run("verify", str(tmp_path))
    assert (code, "expected a dataset" in err) == (2, True)


def test_a_command_ends_although_a_worker_cannot_be_killed(tmp_path: Path) -> None:
    """The worker ends, and closes the log, after its parent: only because this one is suspended rather than stuck."""
    command = [sys.executable, "-m", "tests.support.unkillable_worker", "job", str(tmp_path / "units")]
    with (tmp_path / "log").open("w+b") as log:
        subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, check=True, timeout=PATIENCE_S)
    text = (tmp_path / "log").read_text()
    assert "cannot be killed" in text
    assert "all units are done" in text
    assert len(committed(tmp_path / "units")) == 4
    wait_until(lambda: all(map(has_ended, started(tmp_path / "units"))))
