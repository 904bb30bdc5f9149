"""Where the time of the vision stage goes: every kind of operation at its shapes, and their sum against the whole.

    python -m tests.benchmarks.profile_vision --width 256 --rounds 3
    python -m tests.benchmarks.profile_vision --family emu35

The model runs operation by operation, which MindSpore launches one after the other. The compiled model computes the
same operations, without the time between them; its own time is the line before the table.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import click
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from shared.device import setup_device
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.families import build_network
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.model.kernels import select
from vq_stage.training.initialization import initialize_emu3, initialize_ibq

CELLS = ("GroupNorm", "SpatialNorm")
FUNCTIONS = ("conv2d", "causal_conv3d", "upsample_nearest", "upsample2x_conv", "channel_linear", "attention")
CODES = ("nearest_codes", "argmax_codes", "lookup")
FAMILIES = {"emu3": (Emu3Config, initialize_emu3), "emu35": (IbqConfig, initialize_ibq)}
Call = tuple[str, str]  # an operation and the shapes of its input and weight


@dataclass(slots=True)
class Profile:
    """Seconds of every call of an operation, by operation and shapes; `rest_s` is the time between the calls."""

    seconds: dict[Call, list[float]] = field(default_factory=lambda: defaultdict(list))
    total_s: float = 0.0

    def timed(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the function; the time of each call is added."""

        def run(*arguments: Any, **options: Any) -> Tensor:
            started = time.perf_counter()
            result = function(*arguments, **options)
            shapes = [str(tuple(one.shape)) for one in arguments[:2] if isinstance(one, Tensor) and one.ndim > 1]
            self.seconds[name, " ".join(shapes)].append(time.perf_counter() - started)
            return result

        return run

    def kernels(self, kernels: Any) -> Any:
        """Return the kernels, timed."""
        functions = {name: self.timed(name, getattr(kernels, name)) for name in FUNCTIONS + CODES}
        return SimpleNamespace(**functions, **{name: self._timed_cell(name, getattr(kernels, name)) for name in CELLS})

    def _timed_cell(self, name: str, make: Callable[..., nn.Cell]) -> Callable[..., nn.Cell]:
        def made(groups: int, eps: float) -> nn.Cell:
            return TimedCell(self, name, make(groups, eps))

        return made

    def run(self, function: Callable[[], Tensor]) -> None:
        """Forget earlier times and call a function whose operations are timed."""
        self.seconds.clear()
        started = time.perf_counter()
        with patch.object(ops, "silu", self.timed("silu", ops.silu)):
            function()
        self.total_s = time.perf_counter() - started

    def table(self) -> list[str]:
        """Return a line for each operation and each of its shapes, the longest first; then the time between them."""
        by_name: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for (name, shapes), seconds in self.seconds.items():
            by_name[name][shapes] = seconds
        sums = {name: sum(map(sum, shapes.values())) for name, shapes in by_name.items()}
        lines = []
        for name in sorted(sums, key=lambda name: -sums[name]):
            calls = sum(map(len, by_name[name].values()))
            lines.append(self._line(name, calls, sums[name]))
            for shapes, seconds in sorted(by_name[name].items(), key=lambda item: -sum(item[1])):
                lines.append(self._line(f"    {shapes}", len(seconds), sum(seconds)))
        return [
            *lines,
            self._line("sums, reshapes and the time between operations", 0, self.total_s - sum(sums.values())),
        ]

    def _line(self, what: str, calls: int, seconds: float) -> str:
        return f"{what:<62} {calls or '':>4} {1000 * seconds:9.1f} ms {seconds / self.total_s:6.1%}"


class TimedCell(nn.Cell):
    """A cell of kernels whose calls are timed."""

    def __init__(self, profile: Profile, name: str, cell: nn.Cell):
        super().__init__()
        self.run_cell = profile.timed(name, cell)

    def construct(self, *arguments: Any) -> Tensor:
        return self.run_cell(*arguments)


@click.command()
@click.option("--family", type=click.Choice(list(FAMILIES)), default="emu3", show_default=True, help="Architecture.")
@click.option("--width", type=int, default=256, show_default=True, help="Base width; 256 is the published one.")
@click.option("--size", type=int, default=256, show_default=True, help="Side of the image in pixels.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Number of runs; the fastest is shown.")
def main(family: str, width: int, size: int, rounds: int) -> None:
    """Print the time of every operation in encoding and decoding one image."""
    device = setup_device("cpu")
    make_config, set_weights = FAMILIES[family]
    profile, config = Profile(), make_config(base_channels=width)
    compiled, timed = build_network(config, select(device)), build_network(config, profile.kernels(select(device)))
    for model in (compiled, timed):
        set_weights(model.set_train(False), seed=0)
    pixels = Tensor(np.random.default_rng(0).uniform(-1, 1, (1, 1, 3, size, size)).astype(np.float32))
    codes = compiled.encode_pixels(pixels).astype(ms.int32)

    def encode() -> Tensor:
        return timed.quantize.nearest_codes(timed.encode_latents(pixels))

    def decode() -> Tensor:
        return timed.decode_quantized(timed.quantize.lookup(codes), True)

    print_profile("encode", profile, encode, lambda: compiled.encode_pixels(pixels), rounds)
    print_profile("decode", profile, decode, lambda: compiled.decode_codes(codes, True), rounds)


def print_profile(
    title: str, profile: Profile, run: Callable[[], Tensor], compiled: Callable[[], Tensor], rounds: int
) -> None:
    """Run both forms in turns, the first time without counting, and print the fastest run of each."""
    fastest_s, fastest_compiled_s, table = float("inf"), float("inf"), []
    for number in range(rounds + 1):
        started = time.perf_counter()
        compiled().asnumpy()
        compiled_s = time.perf_counter() - started
        profile.run(run)
        if not number:
            continue
        fastest_compiled_s = min(fastest_compiled_s, compiled_s)
        if profile.total_s < fastest_s:
            fastest_s, table = profile.total_s, profile.table()
    click.echo(
        f"{title}: compiled {1000 * fastest_compiled_s:.1f} ms, operation by operation {1000 * fastest_s:.1f} ms"
    )
    click.echo("\n".join(table))


if __name__ == "__main__":
    main()
