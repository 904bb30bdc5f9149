"""Which share of a job is this process's, when a scheduler starts the same command many times.

Shares decide only who begins where: every rank does in the end what the others have not done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rank:
    """This process is `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise UsageError(f"rank {self.rank} of {self.size}: expected 0 to {self.size - 1}")


def resolve_rank(rank: int | None, size: int | None, environ: Mapping[str, str]) -> Rank:
    """From the flags, else from RANK_ID and RANK_SIZE, else from a Slurm array or step, else rank 0 of 1.

    RANK and WORLD_SIZE are of a process group that trains together and say nothing about shares. Raises UsageError
    if one of a pair is missing, is no number or is out of range.
    """
    if rank is not None or size is not None:
        if rank is None or size is None:
            raise UsageError(f"--rank {rank} --size {size}: expected both or neither")
        return Rank(rank, size)
    if "RANK_ID" in environ or "RANK_SIZE" in environ:
        return _checked(_number(environ, "RANK_ID"), _number(environ, "RANK_SIZE"), "RANK_ID of RANK_SIZE")
    array, step = _slurm_array(environ), _slurm_step(environ)
    return Rank(array.rank * step.size + step.rank, array.size * step.size)


def _slurm_array(environ: Mapping[str, str]) -> Rank:
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return Rank()
    first, step = _number(environ, "SLURM_ARRAY_TASK_MIN"), _number(environ, "SLURM_ARRAY_TASK_STEP", "1")
    index, rest = divmod(_number(environ, "SLURM_ARRAY_TASK_ID") - first, max(1, step))
    size = _number(environ, "SLURM_ARRAY_TASK_COUNT")
    return _checked(
        index if rest == 0 else -1, size, "SLURM_ARRAY_TASK_ID of a regular array of SLURM_ARRAY_TASK_COUNT"
    )


def _slurm_step(environ: Mapping[str, str]) -> Rank:
    """The task of `srun`. A shell of `salloc` has no SLURM_PROCID; a batch script has 0, often without SLURM_NTASKS."""
    if "SLURM_PROCID" not in environ or (environ["SLURM_PROCID"] == "0" and "SLURM_NTASKS" not in environ):
        return Rank()
    return _checked(_number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NTASKS"), "SLURM_PROCID of SLURM_NTASKS")


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"{name}={text}: expected a number; or give --rank and --size") from None


def _checked(rank: int, size: int, what: str) -> Rank:
    try:
        return Rank(rank, size)
    except UsageError as error:
        raise UsageError(f"{what}: {error}; give --rank and --size") from None


def order_for(rank: Rank, units: Sequence[int]) -> tuple[list[int], list[int]]:
    """Units of this rank's share, and those of the others to steal afterwards.

    Each rank begins to steal from another one, its neighbour, and from the end that the neighbour comes to last.
    """
    shares: list[list[int]] = [[] for _ in range(rank.size)]
    for unit in units:
        shares[unit % rank.size].append(unit)
    victims = ((rank.rank + step) % rank.size for step in range(1, rank.size))
    return shares[rank.rank], [unit for victim in victims for unit in reversed(shares[victim])]
