"""Damages each file of a dataset in many ways and runs `emu3 verify` each time; prints one line of JSON per damage.

    python -m tests.support.damage DATASET STRIDE

The damages: one byte inverted and one bit flipped at every STRIDEth offset, several truncations, one byte appended,
the file deleted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.forking import run_forked

SKIPPED = (".lock", "events.jsonl")  # an empty lock file, and a log that nothing relies on


def damages(data: bytes, stride: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield (description, new content); None stands for deletion."""
    for offset in range(0, len(data), stride):
        for mask in (0xFF, 1 << offset % 8):
            yield f"byte {offset} xor {mask:#x}", data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]
    for length in sorted({0, 1, 8, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1}):
        yield f"cut to {length} of {len(data)}", data[:length]
    yield "one byte added", data + b"\0"
    yield "deleted", None


def verify_damaged(dataset: Path, stride: int) -> None:
    for path in sorted(path for path in dataset.rglob("*") if path.is_file() and path.name not in SKIPPED):
        data = path.read_bytes()
        for what, content in damages(data, stride):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            outcome = run_forked(["verify", str(dataset)])
            line = {"file": path.name, "what": what, "exit": outcome.exit_code, "printed": outcome.printed}
            print(json.dumps({**line, "crashed": outcome.has_crashed}), flush=True)
        path.write_bytes(data)


if __name__ == "__main__":
    import shared.maintenance.verify  # noqa: F401  imported once, before the forks

    verify_damaged(Path(sys.argv[1]), int(sys.argv[2]))
