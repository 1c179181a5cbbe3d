"""Times pieces of work against a baseline inside one process, A B A B."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], float]
"""Does one lap of work and returns how many units it was."""
Clock = Callable[[], float]
"""`time.perf_counter`, or for work of one thread `time.thread_time`, which load moves less."""


@dataclass(frozen=True)
class Pair:
    """One interleaved repeat.

    Attributes:
        base: Seconds per unit of the baseline, measured right before or after.
        other: Seconds per unit of what is compared.
    """

    base: float
    other: float

    @property
    def ratio(self) -> float:
        """What is compared over the baseline."""
        return self.other / self.base


def seconds_per_unit(work: Work, seconds: float, clock: Clock = time.perf_counter) -> float:
    """Run laps for at least `seconds` of a clock and divide by the units that were done."""
    units, begin = 0.0, clock()
    while True:
        units += work()
        elapsed = clock() - begin
        if elapsed >= seconds:
            return elapsed / units


def interleaved(
    base: Work,
    others: Mapping[str, Work],
    repeats: int,
    seconds: float,
    clock: Clock = time.perf_counter,
    between: Callable[[], None] = lambda: None,
) -> dict[str, list[Pair]]:
    """Time every piece of work beside a baseline of its own.

    Args:
        base: The baseline.
        others: What is compared, by name.
        repeats: Rounds over all of them; the order inside a pair alternates.
        seconds: Shortest window.
        clock: What seconds are counted by.
        between: Called between windows.

    Returns:
        Name -> one pair per repeat. The first lap of everything is a warm-up and dropped.
    """
    for work in (base, *others.values()):
        work()
    pairs: dict[str, list[Pair]] = {name: [] for name in others}
    for repeat in range(repeats):
        for name, other in others.items():
            times: dict[bool, float] = {}
            for is_base in (True, False) if repeat % 2 == 0 else (False, True):
                between()
                times[is_base] = seconds_per_unit(base if is_base else other, seconds, clock)
            pairs[name].append(Pair(times[True], times[False]))
    return pairs
