"""The wheel: it contains every file of the four packages, and works without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "vq_stage", "lm_stage", "pipelines")


def package_files() -> set[str]:
    """Every file below the packages, relative to the repository."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def test_every_file_is_a_module_of_a_package_or_declared_as_package_data() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for file in package_files():
        package, _, name = file.partition("/")
        if file.endswith(".py"):
            assert (ROOT / file).parent.joinpath("__init__.py").is_file(), f"{file}: its folder has no __init__.py"
        else:
            depth = name.count("/")
            declared = [p for p in patterns[package] if p.count("/") == depth and fnmatch(name, p)]
            assert declared, f"{file}: no pattern of package-data in pyproject.toml covers it"


def test_every_package_is_marked_as_typed() -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= package_files()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder appears in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, timeout=600)
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_contains_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == package_files()


@pytest.mark.slow
def test_an_installed_wheel_encodes_a_picture(wheel: Path, tmp_path: Path) -> None:
    """In a new environment that sees the dependencies of this one but not the repository."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=600)
    python, emu3 = environment / "bin/python", environment / "bin/emu3"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, timeout=600)
    packages = Path(sysconfig.get_path("purelib"))
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    (Path(found.stdout.strip()) / "dependencies.pth").write_text(f"{packages}\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64), "#3060c0").save(tmp_path / "pictures/blue.png")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [emu3, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "Usage: emu3 demo" in run("demo", "--help")
    assert "new  " in run("run", "demo", "--dry-run")
    assert "1 rows encoded" in run("encode", "pictures", "codes", "--resize", "none")
    location = subprocess.run(
        [python, "-c", "import pipelines; print(pipelines.__file__)"],
        cwd=tmp_path,
        env=variables,
        check=True,
        capture_output=True,
        text=True,
    )
    assert str(environment) in location.stdout
