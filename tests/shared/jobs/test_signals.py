"""Signals that ask a job to stop: once gently, twice at once, three times without waiting for anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from shared.jobs.signals import STOP_SIGNALS, StopFlag, stop_on_signals
from tests.support.command import INTERRUPTED, PATIENCE_S
from tests.support.toy_results import has_ended, wait_until

STUCK_IN_A_LIBRARY = """
import ctypes, subprocess, sys
from shared.jobs.signals import stop_on_signals
with stop_on_signals():
    ignore = "import signal; signal.signal(2, signal.SIG_IGN); print(flush=True); signal.pause()"
    child = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    mutex = ctypes.create_string_buffer(64)
    while True:
        ctypes.CDLL(None).pthread_mutex_lock(mutex)  # never returns the second time, and Python runs no handlers
"""


def are_all_signals_delivered(pid: int) -> bool:
    return int(Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0], 16) == 0


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_stop_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        assert stop.signal_name == number.name
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_name == number.name, "the first signal is the one that is reported"
    assert signal.getsignal(number) is before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_second_ctrl_c_raises_and_repeated_sigterm_does_not() -> None:
    with stop_on_signals(), pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the first of three must not raise
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second SIGINT did not raise")


def test_a_third_ctrl_c_ends_a_job_and_its_children_whatever_they_do() -> None:
    """The main thread runs no Python code, and the child ignores SIGINT."""
    with subprocess.Popen([sys.executable, "-c", STUCK_IN_A_LIBRARY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            wait_until(partial(are_all_signals_delivered, process.pid))
        assert not has_ended(child)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == INTERRUPTED
        wait_until(partial(has_ended, child))


def test_the_flag_is_set_once() -> None:
    stop = StopFlag()
    stop.set("SIGTERM")
    stop.set("SIGINT")
    assert stop.signal_name == "SIGTERM"
