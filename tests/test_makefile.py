"""`make demo` finds a suitable Python by itself, or explains what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TOOLS = ("make", "sh", "test", "touch")


@pytest.fixture
def path_without_python(tmp_path: Path) -> Path:
    """A directory for PATH with the tools that the Makefile calls, and no Python."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        (directory / name).symlink_to(found)
    return directory


def add_python(directory: Path, name: str, exit_code: int) -> None:
    """Add an interpreter that accepts any program and exits with `exit_code`."""
    script = directory / name
    script.write_text(f"#!{directory / 'sh'}\nexit {exit_code}\n")
    script.chmod(0o755)


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(directory)}
    environment.pop("PYTHON", None)
    return subprocess.run(
        ["make", *arguments, f"VENV={directory / 'venv'}"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_unusable_interpreters_are_passed_over(path_without_python: Path) -> None:
    """A version manager leaves launchers on PATH for versions that are not active; they fail when they are run."""
    add_python(path_without_python, "python3.11", exit_code=127)
    add_python(path_without_python, "python3.12", exit_code=0)
    assert "python3.12 -m venv" in make(path_without_python, "-n", "demo").stdout


def test_python_3_11_is_preferred(path_without_python: Path) -> None:
    for name in ("python3.10", "python3.11", "python3.12"):
        add_python(path_without_python, name, exit_code=0)
    assert "python3.11 -m venv" in make(path_without_python, "-n", "demo").stdout


def test_a_missing_python_is_explained(path_without_python: Path) -> None:
    done = make(path_without_python, "demo")
    assert done.returncode != 0
    assert "needs Python 3.10, 3.11 or 3.12" in done.stdout


def test_another_version_of_mindspore_replaces_the_installed_one(path_without_python: Path) -> None:
    """The targets of other versions are removed, so that going back installs again."""
    add_python(path_without_python, "python3.11", exit_code=0)
    plan = make(path_without_python, "-n", "test", "MINDSPORE=2.10.0").stdout
    assert plan.count('"mindspore==2.10.0"') == 2
    assert plan.index("venv/installed-*") < plan.index("touch")
    assert "mindspore==2.8.0" not in plan
