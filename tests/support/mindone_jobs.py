"""Runs commands of `emu3` with mindone's models on CPU: `python -m tests.support.mindone_jobs COMMANDS.json`.

COMMANDS.json is a list of argument lists, which run one after the other in this process, on a pretended NPU and with
substitutes for mindone's kernels. The process exits with the code of the first command that fails.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipelines.cli import main
from shared.device import setup_device
from tests.support.fake_ascend import install_fake_ascend
from tests.support.mindone_kernels import substitute_kernels


def run(commands: list[list[str]]) -> None:
    """Run commands as the shell would, up to the first that fails."""
    setup_device("cpu")  # without its settings, every operator takes milliseconds to launch
    install_fake_ascend(pytest.MonkeyPatch())  # for the rest of the process, as the substitutes are
    substitute_kernels()
    for arguments in commands:
        main(arguments, standalone_mode=False)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
