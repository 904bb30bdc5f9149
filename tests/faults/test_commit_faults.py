"""Every call of a commit that can fail does: the unit is then complete or absent, and can be committed again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.quarantine import Refusal
from shared.errors import NondeterminismError
from shared.maintenance.sweep import sweep
from shared.maintenance.verify import verify_dataset
from tests.support.command import leftovers
from tests.support.file_digests import file_digests
from tests.support.handmade import NUMERICS, freeze, record, refusal

KEYS = ("one", "two", "three", "four")


class Full:
    """Wraps a function; raises ENOSPC at one of its calls."""

    def __init__(self, function: Callable[..., Any], fails_at: int):
        self.function = function
        self.fails_at = fails_at
        self.calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.function(*arguments, **named)


def install(monkeypatch: pytest.MonkeyPatch, target: str, fails_at: int) -> Full:
    counter = Full(getattr(os, target.removeprefix("os.")), fails_at)
    monkeypatch.setattr(target, counter)
    return counter


def commit(dataset: Dataset, plan: Plan) -> None:
    """Commit three rows and a refusal: a part, a quarantine file and a record."""
    records = [record(index, key) for index, key in enumerate(KEYS[:3])]
    dataset.commit(
        UnitResult(0, records, refusals=[Refusal("four", 3, "3.png", "empty", "no bytes")], numerics=NUMERICS), plan
    )


def os_error(call: Callable[[], object]) -> OSError | None:
    try:
        call()
    except OSError as error:
        return error
    return None


def expected_contents(tmp_path: Path) -> dict[str, str]:
    dataset, plan = freeze(tmp_path / "expected", KEYS)
    commit(dataset, plan)
    return file_digests(dataset.root)


def attempts(tmp_path: Path) -> Iterator[tuple[int, Dataset, Plan]]:
    """Yield a fresh dataset for every call that might fail."""
    for fails_at in range(1, 100):
        dataset, plan = freeze(tmp_path / f"attempt-{fails_at}", KEYS)
        yield fails_at, dataset, plan
    raise AssertionError("a commit makes fewer than 99 calls")


@pytest.mark.parametrize("target", ["os.replace", "os.link", "os.fsync"])
def test_no_space_at_every_call(target: str, tmp_path: Path) -> None:
    expected, failures = expected_contents(tmp_path), 0
    for fails_at, dataset, plan in attempts(tmp_path):
        with pytest.MonkeyPatch.context() as monkeypatch:
            counter = install(monkeypatch, target, fails_at)
            error = os_error(lambda dataset=dataset, plan=plan: commit(dataset, plan))
        if counter.calls < fails_at:
            assert error is None
            break
        assert error is not None, "the failure was ignored"
        assert error.errno == errno.ENOSPC
        failures += 1
        where = f"call {fails_at} of {target}"
        assert leftovers(dataset.root) == [], where
        if dataset.is_committed(0):
            assert file_digests(dataset.root) == expected, where
            assert verify_dataset(dataset).problems == [], where
        else:
            sweep(dataset)
            assert set(file_digests(dataset.root)) == {"plan.arrow"}, where
        commit(dataset, plan)
        assert file_digests(dataset.root) == expected, where
    assert failures >= {"os.replace": 2, "os.link": 1, "os.fsync": 6}[target]


@pytest.mark.parametrize("target", ["os.link", "os.fsync"])
def test_no_space_for_the_plan(target: str, tmp_path: Path) -> None:
    for fails_at in range(1, 10):
        root = tmp_path / f"attempt-{fails_at}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            counter = install(monkeypatch, target, fails_at)
            error = os_error(lambda root=root: freeze(root, KEYS))
        if counter.calls < fails_at:
            assert error is None
            break
        assert error is not None
        assert leftovers(root) == []
        assert {path.name for path in root.iterdir()} <= {"plan.arrow"}
    assert fails_at > 1


def test_second_commit_of_other_rows_changes_nothing(tmp_path: Path) -> None:
    dataset, plan = freeze(tmp_path / "dataset", KEYS)
    commit(dataset, plan)
    before = file_digests(dataset.root)
    other = [record(index + 100, key) for index, key in enumerate(KEYS)]
    with pytest.raises(NondeterminismError, match="the first is kept"):
        dataset.commit(UnitResult(0, other, numerics=NUMERICS), plan)
    assert file_digests(dataset.root) == before


def test_second_commit_of_other_refusals_changes_nothing(tmp_path: Path) -> None:
    """An input was unreadable the first time only: the quarantine file of the second attempt must not remain."""
    dataset, plan = freeze(tmp_path / "dataset", KEYS)
    commit(dataset, plan)
    before = file_digests(dataset.root)
    records = [record(index, key) for index, key in enumerate(KEYS[:3])]
    with pytest.raises(NondeterminismError):
        dataset.commit(UnitResult(0, records, refusals=[refusal(3)], numerics=NUMERICS), plan)
    assert file_digests(dataset.root) == before


def test_refusals_come_back_as_they_were(tmp_path: Path) -> None:
    """Names may contain what Python's splitlines regards as line ends."""
    dataset, plan = freeze(tmp_path / "dataset", KEYS)
    given = [
        Refusal(f"k{n}{text}", n, f"{text}.png", "empty", text) for n, text in enumerate("\u2028\u0085\n\r\x0b\x1c")
    ]
    made = dataset.commit(UnitResult(1, refusals=given), plan)
    assert dataset.refusals(made) == given
