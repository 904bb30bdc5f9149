"""Processes that end with their parent, and children that end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from shared.jobs import process_tree
from shared.jobs.process_tree import environment_of_child, exit_with_parent, is_suspended
from tests.support.toy_results import has_ended, wait_until

CHILD = """
import signal
from shared.jobs import process_tree
{setup}
process_tree.exit_with_parent()
print(__import__("os").getpid(), flush=True)
while True:
    signal.pause()
"""
BY_POLLING = "process_tree.signal_at_parent_death = lambda number: False"
PARENT = """
import signal, subprocess, sys
from shared.jobs.process_tree import environment_of_child
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment_of_child())
signal.pause()
"""


@pytest.mark.parametrize("setup", ["", BY_POLLING], ids=["kernel", "poll"])
def test_a_child_ends_when_its_parent_is_killed(setup: str) -> None:
    command = [sys.executable, "-c", PARENT, CHILD.format(setup=setup)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.kill()
        wait_until(lambda: has_ended(child))


def test_a_child_whose_parent_has_ended_before_it_looked_ends_too() -> None:
    environment = {**environment_of_child(), process_tree.PARENT_VARIABLE: "1"}
    done = subprocess.run([sys.executable, "-c", CHILD.format(setup="")], env=environment, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (1, b"")


def test_without_the_variable_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "signal_at_parent_death", lambda number: pytest.fail("nobody asked for it"))
    exit_with_parent()


def test_a_stopped_process_is_suspended() -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        assert not is_suspended(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: is_suspended(process.pid))
        process.kill()
    assert not is_suspended(process.pid)
