"""A job on a Ray cluster of several nodes on this machine: poison, errors, a stop, and a node that is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigMismatchError, Interrupted, JobStoppedError, UsageError
from shared.jobs.job import TaskResult
from shared.jobs.ray_engine import run_ray
from shared.jobs.signals import StopFlag
from tests.support.toy_results import assert_all_done, committed, has_ended, started, wait_until
from tests.support.toy_worker import Toy, toy_job

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with one CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def address(cluster: Any) -> str:
    return str(cluster.address)


def test_exactly_the_poison_inputs_are_quarantined(address: str, tmp_path: Path) -> None:
    done: list[TaskResult] = []
    progress: list[int] = []
    run_ray(toy_job(Toy(tmp_path, poison=(17,)), 12, done, progress), 2, address, backoff_s=0)
    assert_all_done(tmp_path, 12, {17}, done, progress)
    assert os.getpid() not in started(tmp_path)


def test_an_error_for_the_user_is_raised_as_it_was(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigMismatchError, match="unit 3 has other settings"):
        run_ray(toy_job(Toy(tmp_path, refused_unit=3), 8, [], []), 1, address)
    wait_until(lambda: all(has_ended(pid) for pid in started(tmp_path)))


def test_after_a_stop_actors_save_what_they_have(address: str, tmp_path: Path) -> None:
    """The signal is noticed although Ray installs a handler of its own."""
    from shared.jobs.signals import stop_on_signals

    with stop_on_signals() as stop:
        job = toy_job(Toy(tmp_path, endless_units=tuple(range(12))), 12, [], [], stop)

        def send_signal() -> None:
            wait_until(lambda: len(list(tmp_path.glob("*.endless"))) == 2)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=send_signal)
        thread.start()
        with pytest.raises(Interrupted, match="stopped by SIGTERM: 2 units committed"):
            run_ray(job, 2, address)
        thread.join()
    assert len(committed(tmp_path)) == 2


@pytest.mark.slow
def test_a_node_lost_takes_no_unit_with_it(cluster: Any, tmp_path: Path) -> None:
    """Three actors run on three nodes; one node dies with all its processes, and the others do the rest."""
    node = cluster.add_node(**NODE)
    done: list[TaskResult] = []
    progress: list[int] = []

    def lose_the_node() -> None:
        wait_until(lambda: len(started(tmp_path)) == 3)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose_the_node)
    thread.start()
    run_ray(toy_job(Toy(tmp_path, unit_s=0.2), 40, done, progress), 3, cluster.address, backoff_s=0)
    thread.join()
    assert_all_done(tmp_path, 40, set(), done, progress)


@pytest.mark.slow
def test_actors_that_cannot_start_stop_the_job(address: str, tmp_path: Path) -> None:
    with pytest.raises(JobStoppedError, match=r"worker 0 died 3 times in a row before it started any work"):
        run_ray(toy_job(Toy(tmp_path, dies_at_start=True), 4, [], []), 1, address, backoff_s=0)


def test_without_ray_the_advice_is_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install emu3-relay\[ray\]"):
        run_ray(toy_job(Toy(tmp_path), 1, [], [], StopFlag()), 1)
