"""SAC on a GPU: gradient steps per second, eager against captured, and whether both agree.

`python -m analysis.throughput.gpu` prints one table. Sizes are those of MT10: 39 observations and
a one-hot task of 10, 4 actions, networks of 3 x 400, minibatches of 1,280. Without a GPU it says
so and ends without an error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from analysis.throughput.interleave import interleaved
from analysis.throughput.section import Table, number
from analysis.throughput.summary import spread

NO_DEVICE = "no CUDA device was found: nothing to measure here"
SIZES = (39, 4, 10)
HIDDEN_SIZES, BATCH_SIZE = (400, 400, 400), 1280
AGREEMENT_STEPS = 200
TARGET_RATE, TARGET_RATIO = 1_000, 2.5


def has_device() -> bool:
    """Whether torch finds a GPU."""
    return torch.cuda.is_available()


def learner(
    capture: str,
    device: str,
    hidden_sizes: Sequence[int] = HIDDEN_SIZES,
    batch_size: int = BATCH_SIZE,
    methods: Mapping[str, Any] | None = None,
) -> Any:
    """An agent with a full replay, from one seed."""
    from analysis.throughput.learners import SACLearner

    return SACLearner(
        hidden_sizes, batch_size, 1, device, SIZES, methods, fast_path=False, capture=capture
    )


def largest_difference(first: Any, second: Any, num_steps: int) -> float:
    """Train two agents side by side on the same draws; largest relative difference of a weight.

    Args:
        first: A learner.
        second: Another, built alike.
        num_steps: Gradient steps of each.
    """
    for _ in range(num_steps):
        first.lap()
        second.lap()
    return max(
        _relative(mine, theirs)
        for name, network in first.agent.networks().items()
        for mine, theirs in zip(
            network.parameters(), second.agent.networks()[name].parameters(), strict=True
        )
    )


def _relative(first: Tensor, second: Tensor) -> float:
    scale = second.detach().abs().max().clamp_min(1e-12)
    return float((first.detach() - second.detach()).abs().max() / scale)


def measure(repeats: int, seconds: float, agreement_steps: int) -> Table:
    """Time eager and captured steps, with and without continual backprop."""
    from plasticity.methods import continual_backprop

    cells = []
    for name, methods in (
        ("plain", {}),
        ("continual backprop", {"continual_backprop": continual_backprop.Config()}),
    ):
        eager, captured = (learner(mode, "cuda", methods=methods) for mode in ("off", "on"))
        difference = largest_difference(captured, eager, agreement_steps)
        pairs = interleaved(_many(eager), {"": _many(captured)}, repeats, seconds)[""]
        slow, fast = (spread([1.0 / x for x in each]) for each in zip(*_times(pairs), strict=True))
        ratio = spread([pair.base / pair.other for pair in pairs])
        cells.append(
            [name, number(slow, 0), number(fast, 0), number(ratio, 2), f"{difference:.1e}"]
        )
    title = f"SAC on {torch.cuda.get_device_name()}: 3 x 400, batch {BATCH_SIZE:,}"
    header = ("methods", "eager, updates/s", "captured, updates/s", "captured / eager")
    return Table(title, (*header, f"difference after {agreement_steps} updates"), cells)


def _many(learner: Any, laps: int = 50):
    """Laps that end with the device, not with the launches."""

    def work() -> float:
        units = sum(learner.lap() for _ in range(laps))
        torch.cuda.synchronize()
        return units

    return work


def _times(pairs: Sequence[Any]) -> list[tuple[float, float]]:
    return [(pair.base, pair.other) for pair in pairs]


def main(arguments: Sequence[str]) -> int:
    """Run the script and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.throughput.gpu", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved pairs (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest window")
    parser.add_argument("--steps", type=int, default=AGREEMENT_STEPS, help="updates compared")
    chosen = parser.parse_args(arguments)
    if not has_device():
        print(NO_DEVICE)
        return 0
    begin = time.monotonic()
    table = measure(chosen.repeats, chosen.seconds, chosen.steps)
    console = Console()
    console.print(table.rich())
    rate = float(np.max([float(row[2].split(" ")[0].replace(",", "")) for row in table.cells]))
    console.print(
        f"targets: captured at least {TARGET_RATE:,} updates/s and {TARGET_RATIO} times eager; "
        f"20 million steps of MT10 (2 million updates) take {2e6 / rate / 3600:.1f} hours of "
        f"learning at the better rate. Measured in {time.monotonic() - begin:.0f} s.",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
