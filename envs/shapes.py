"""Values over time. Pure arithmetic: nothing here knows a simulator.

Two families: *stepwise* schedules keep one value per world and cut the episodes where a new world
begins; *drifting* schedules (gradual, sinusoidal) move the value under running episodes.
"""

from __future__ import annotations

import bisect
import math
from typing import Protocol

from envs.laws import Law
from envs.worlds import TABLE_SHAPE, Worlds, raw_bits, uniform


class Schedule(Protocol):
    """The value of one quantity over environment steps."""

    drifting: bool
    """True if the value moves under running episodes, which are then never cut."""

    @property
    def num_worlds(self) -> int | None:
        """Worlds available, None for no limit."""
        ...

    def regime_at(self, env_steps: int) -> int:
        """World index in force after ``env_steps`` transitions."""
        ...

    def start(self, regime: int) -> int:
        """First environment step of world ``regime``."""
        ...

    def value(self, regime: int) -> float:
        """Value at the start of world ``regime``."""
        ...

    def value_at(self, env_steps: int) -> float:
        """Value in force after ``env_steps`` transitions."""
        ...

    def describe(self) -> dict[str, object]:
        """Plain values that identify the schedule."""
        ...


class Intervals(Protocol):
    """How long worlds last."""

    def index(self, env_steps: int) -> int:
        """World in force after ``env_steps`` transitions."""
        ...

    def start(self, regime: int) -> int:
        """First environment step of world ``regime``."""
        ...

    def describe(self) -> dict[str, object]:
        """Plain values that identify the lengths."""
        ...


class EqualIntervals:
    """Every world lasts ``interval`` environment steps."""

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def index(self, env_steps: int) -> int:
        return env_steps // self._interval

    def start(self, regime: int) -> int:
        return regime * self._interval

    def describe(self) -> dict[str, object]:
        return {"interval": self._interval}


class GeometricIntervals:
    """Every block of ``block`` steps ends in a switch with probability block / mean.

    So lengths are geometric, their mean is ``mean``, none is shorter than a block, and how long a
    world has lasted says nothing about how much longer it will.

    Args:
        mean: Mean length in environment steps.
        block: Shortest length in environment steps; at most ``mean``.
        table_seed: Entropy of the lengths' own stream.
        row: World seed.
    """

    def __init__(self, mean: int, block: int, table_seed: int, row: int) -> None:
        if block > mean:
            raise ValueError(
                f"intervals=geometric switches at multiples of update_every={block}, which must "
                f"not be above the mean length switch_interval={mean}; lower update_every."
            )
        self._mean, self._block = mean, block
        self._seeds = {"table_seed": table_seed, "row": row}
        self._bits = raw_bits(table_seed, row, 0)
        self._starts = [0]

    def _draw(self) -> None:
        stays = 1.0 - self._block / self._mean
        # Inverse of P(more than n blocks) = stays^n; a uniform number of 0 is no problem.
        share = math.log1p(-uniform(self._bits)) / math.log(stays) if stays > 0.0 else 0.0
        self._starts.append(self._starts[-1] + self._block * (1 + math.floor(share)))

    def index(self, env_steps: int) -> int:
        while self._starts[-1] <= env_steps:
            self._draw()
        return bisect.bisect_right(self._starts, env_steps) - 1

    def start(self, regime: int) -> int:
        while len(self._starts) <= regime:
            self._draw()
        return self._starts[regime]

    def describe(self) -> dict[str, object]:
        starts = [self.start(k) for k in range(TABLE_SHAPE[1])]
        return {"interval": self._mean, "block": self._block, "starts": starts, **self._seeds}


class Stepwise:
    """One constant value per world."""

    drifting = False

    def __init__(self, worlds: Worlds, intervals: Intervals) -> None:
        self._worlds, self._intervals = worlds, intervals
        self.num_worlds = worlds.length

    def regime_at(self, env_steps: int) -> int:
        return self._intervals.index(env_steps)

    def start(self, regime: int) -> int:
        return self._intervals.start(regime)

    def value(self, regime: int) -> float:
        return self._worlds.value(regime)

    def value_at(self, env_steps: int) -> float:
        return self.value(self.regime_at(env_steps))

    def describe(self) -> dict[str, object]:
        return {"shape": "stepwise", **self._intervals.describe(), **self._worlds.describe()}


class Gradual:
    """From world k to k + 1: the share s = min((t - t_k) / ramp, 1) of the way, t_k = k * interval.

    For a logarithmic law ln F = (1 - s) ln F_k + s ln F_{k+1}, otherwise the same without ln.
    """

    drifting = True

    def __init__(
        self, worlds: Worlds, law: Law, interval: int, ramp: int, update_every: int
    ) -> None:
        self._worlds, self._law, self._interval = worlds, law, interval
        self._ramp, self._update_every = ramp, update_every
        self.num_worlds = None if worlds.length is None else worlds.length - 1

    def regime_at(self, env_steps: int) -> int:
        return _rounded_down(env_steps, self._update_every) // self._interval

    def start(self, regime: int) -> int:
        return regime * self._interval

    def value(self, regime: int) -> float:
        return self._worlds.value(regime)

    def value_at(self, env_steps: int) -> float:
        time = _rounded_down(env_steps, self._update_every)
        regime, elapsed = divmod(time, self._interval)
        share = min(elapsed / self._ramp, 1.0)
        return self._law.mix(self._worlds.value(regime), self._worlds.value(regime + 1), share)

    def describe(self) -> dict[str, object]:
        timing = [self._interval, self._ramp, self._update_every]
        return {"shape": "gradual", "timing": timing, **self._worlds.describe()}


class Sinusoidal:
    """ln F(t) = ln centre + ln factor * sin(2 pi t / period + phase); a regime is one period.

    For a linear law F(t) = centre + deflection * sin(...).
    """

    drifting = True
    num_worlds = None

    def __init__(
        self,
        law: Law,
        swing: tuple[float, float],
        period: int,
        phase: float,
        update_every: int,
    ) -> None:
        self._law, self._period, self._phase = law, period, phase
        self._centre, self._deflection = swing
        self._update_every = update_every

    def regime_at(self, env_steps: int) -> int:
        return _rounded_down(env_steps, self._update_every) // self._period

    def start(self, regime: int) -> int:
        return regime * self._period

    def value(self, regime: int) -> float:
        return self.value_at(regime * self._period)

    def value_at(self, env_steps: int) -> float:
        time = _rounded_down(env_steps, self._update_every)
        angle = 2.0 * math.pi * (time % self._period) / self._period + self._phase
        return self._law.deflected(self._centre, self._deflection, math.sin(angle))

    def describe(self) -> dict[str, object]:
        numbers = [value.hex() for value in (self._centre, self._deflection, self._phase)]
        timing = [self._period, self._update_every]
        return {"shape": "sinusoidal", "numbers": numbers, "timing": timing}


class Fixed:
    """One value for ever; the stationary control."""

    drifting = False
    num_worlds = None

    def __init__(self, value: float, name: str) -> None:
        self._value, self._name = value, name

    def regime_at(self, env_steps: int) -> int:
        return 0

    def start(self, regime: int) -> int:
        return 0

    def value(self, regime: int) -> float:
        return self._value

    def value_at(self, env_steps: int) -> float:
        return self._value

    def describe(self) -> dict[str, object]:
        return {"shape": "fixed", self._name: self._value.hex()}


def _rounded_down(env_steps: int, update_every: int) -> int:
    return env_steps - env_steps % update_every
