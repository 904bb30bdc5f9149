"""The share of this process when a cluster scheduler starts the same command several times.

Shares only decide where each process starts: every rank finally takes whatever the others have not done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rank:
    """The number of this process, `rank`, among `world_size` equal ones."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank} of {self.world_size}: expected 0 to {self.world_size - 1}")


def resolve_rank(rank: int | None, world_size: int | None, environ: Mapping[str, str]) -> Rank:
    """Take the rank from the options, else from RANK_ID and RANK_SIZE, else from a Slurm array or step, else 0 of 1.

    RANK and WORLD_SIZE are not read: they belong to process groups that train together. Raises UsageError if one of
    a pair is missing, is not a number or is out of range.
    """
    if rank is not None and world_size is not None:
        return Rank(rank, world_size)
    if rank is not None:
        raise UsageError(f"--rank {rank}: expected --world-size too")
    if world_size is not None:
        raise UsageError(f"--world-size {world_size}: expected --rank too")
    if "RANK_ID" in environ or "RANK_SIZE" in environ:
        return _checked(_number(environ, "RANK_ID"), _number(environ, "RANK_SIZE"), "RANK_ID of RANK_SIZE")
    array, step = _slurm_array(environ), _slurm_step(environ)
    return Rank(array.rank * step.world_size + step.rank, array.world_size * step.world_size)


def _slurm_array(environ: Mapping[str, str]) -> Rank:
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return Rank()
    first, stride = _number(environ, "SLURM_ARRAY_TASK_MIN"), _number(environ, "SLURM_ARRAY_TASK_STEP", "1")
    index, remainder = divmod(_number(environ, "SLURM_ARRAY_TASK_ID") - first, max(1, stride))
    return _checked(
        index if remainder == 0 else -1,
        _number(environ, "SLURM_ARRAY_TASK_COUNT"),
        "SLURM_ARRAY_TASK_ID of a regular array of SLURM_ARRAY_TASK_COUNT",
    )


def _slurm_step(environ: Mapping[str, str]) -> Rank:
    """Return the task of an `srun` step.

    A shell started by `salloc` has no SLURM_PROCID; a batch script has 0, often without SLURM_NTASKS.
    """
    if "SLURM_PROCID" not in environ or (environ["SLURM_PROCID"] == "0" and "SLURM_NTASKS" not in environ):
        return Rank()
    return _checked(_number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NTASKS"), "SLURM_PROCID of SLURM_NTASKS")


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"{name}={text}: expected a number; or give --rank and --world-size") from None


def _checked(rank: int, world_size: int, variables: str) -> Rank:
    try:
        return Rank(rank, world_size)
    except UsageError as error:
        raise UsageError(f"{variables}: {error}; give --rank and --world-size") from None


def split_units(rank: Rank, units: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the units of this rank's share, and those of the other ranks in the order in which to steal them.

    Each rank first steals from its neighbor, and from the end that the neighbor reaches last.
    """
    shares: list[list[int]] = [[] for _ in range(rank.world_size)]
    for unit in units:
        shares[unit % rank.world_size].append(unit)
    victims = ((rank.rank + step) % rank.world_size for step in range(1, rank.world_size))
    return shares[rank.rank], [unit for victim in victims for unit in reversed(shares[victim])]
