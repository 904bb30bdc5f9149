"""Settings of the commands that maintain datasets."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class SealOptions:
    """`shard_bytes` is the minimum size of every shard except the last; a unit is never split between shards."""

    dataset: str
    shard_bytes: int = 128 << 20
    keep_parts: bool = False

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-mb: expected more than 0, got {self.shard_bytes} bytes")
