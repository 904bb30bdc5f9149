"""The rank of a process from flags, Ascend's variables and Slurm's, and its share of the units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.jobs.rank import Rank, resolve_rank, split_units

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "1",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Rank(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Rank(0, 1)),
        ({"RANK_ID": "3", "RANK_SIZE": "8"}, Rank(3, 8)),
        ({"RANK_ID": "3", "RANK_SIZE": "8", **ARRAY}, Rank(3, 8)),
        (ARRAY, Rank(2, 4)),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "25", "SLURM_ARRAY_TASK_STEP": "10"}, Rank(2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, Rank(1, 3)),
        ({**ARRAY, "SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, Rank(2 * 3 + 1, 12)),
        ({"SLURM_PROCID": "0"}, Rank(0, 1)),
        ({"SLURM_NTASKS": "8"}, Rank(0, 1)),
    ],
)
def test_the_environment_gives_the_rank(environ: dict[str, str], expected: Rank) -> None:
    assert resolve_rank(None, None, environ) == expected


def test_flags_win_over_the_environment() -> None:
    assert resolve_rank(1, 2, {"RANK_ID": "3", "RANK_SIZE": "8"}) == Rank(1, 2)


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ((1, None), {}, "--rank 1: expected --world-size too"),
        ((None, 4), {}, "--world-size 4: expected --rank too"),
        ((4, 4), {}, "rank 4 of 4: expected 0 to 3"),
        ((-1, 4), {}, "rank -1 of 4"),
        ((0, 0), {}, "rank 0 of 0"),
        ((None, None), {"RANK_ID": "1"}, "RANK_SIZE=None: expected a number"),
        ((None, None), {"RANK_SIZE": "2"}, "RANK_ID=None: expected a number"),
        ((None, None), {"RANK_ID": "one", "RANK_SIZE": "2"}, "RANK_ID=one: expected a number"),
        ((None, None), {"RANK_ID": "2", "RANK_SIZE": "2"}, "RANK_ID of RANK_SIZE: rank 2 of 2"),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN=None"),
        ((None, None), {**ARRAY, "SLURM_ARRAY_TASK_ID": "9"}, "rank 4 of 4"),
        ((None, None), {**ARRAY, "SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_STEP": "2"}, "rank -1 of 4"),
        ((None, None), {"SLURM_PROCID": "1"}, "SLURM_NTASKS=None"),
    ],
)
def test_half_given_or_out_of_range_is_refused(
    flags: tuple[int | None, int | None], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_rank(*flags, environ)


def test_a_rank_does_its_share_and_steals_from_its_neighbours_ends() -> None:
    assert split_units(Rank(1, 3), range(9)) == ([1, 4, 7], [8, 5, 2, 6, 3, 0])
    assert split_units(Rank(), range(3)) == ([0, 1, 2], [])


@given(size=st.integers(1, 9), units=st.lists(st.integers(0, 99), unique=True))
def test_shares_hold_each_unit_once_and_no_two_ranks_steal_the_same_first(size: int, units: list[int]) -> None:
    orders = [split_units(Rank(rank, size), units) for rank in range(size)]
    assert sorted(unit for own, _ in orders for unit in own) == sorted(units)
    assert all(sorted(own + others) == sorted(units) for own, others in orders)
    if len({unit % size for unit in units}) == size:
        assert len({others[0] for _, others in orders if others}) == (size if size > 1 else 0)
