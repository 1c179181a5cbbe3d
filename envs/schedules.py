"""Friction as a function of time. Pure arithmetic: nothing here knows a simulator.

Two families: *stepwise* schedules keep one friction per world and cut the episodes where a new
world begins; *drifting* schedules (gradual, sinusoidal) move the friction under running episodes.

Source: Dohare et al., Nature 632:768-774 (2024) for the abrupt schedule (a new friction every
2 million steps); the other schedules are ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Protocol

from envs.worlds import (
    GeneratedWorlds,
    ListWorlds,
    ScheduleExhausted,
    Worlds,
    checked_friction,
    table_worlds,
)

__all__ = ["Schedule", "ScheduleConfig", "ScheduleExhausted", "make_schedule"]

SCHEDULES = ("abrupt", "list", "cyclic", "gradual", "sinusoidal", "fixed")
SOURCES = ("generated", "table", "list")
SWITCH_RULES = ("exact", "episode_end")


@dataclass(frozen=True)
class ScheduleConfig:
    """Which friction holds when. All counts are environment steps summed over environments.

    Attributes:
        schedule: abrupt (one constant friction per world), list (the same with
            ``friction_values``), cyclic (``cyclic_values`` again and again), gradual
            (log-linear from world k to world k + 1), sinusoidal (in ln F) or fixed.
        switch_interval: Length of a world in environment steps.
        switch_rule: exact (all environments change together, episodes are cut) or episode_end
            (each environment changes at its own first episode end after the interval).
        source: Where the worlds of abrupt and gradual come from: generated, table or list.
        world_seed: Row of the generator or table, independent of the agent's seed.
        table_seed: Entropy of the generator.
        friction_low: Lower end of the log-uniform range.
        friction_high: Upper end of the log-uniform range.
        friction_values: The worlds of schedule=list or source=list.
        on_exhausted: error or cycle, when a list has no next value.
        fixed_friction: The friction of schedule=fixed; 1.0 is the stationary control.
        cyclic_values: The worlds of schedule=cyclic.
        ramp: Steps a gradual change takes from the start of its interval; None = the interval.
        update_every: How often a drifting friction is written, in environment steps.
        sinusoid_center: Geometric mean of the sinusoid.
        sinusoid_factor: The sinusoid runs from center / factor to center * factor.
        sinusoid_period: Period of the sinusoid in environment steps.
        sinusoid_phase: Phase in radians.
    """

    schedule: str = "abrupt"
    switch_interval: int = 2_000_000
    switch_rule: str = "exact"
    source: str = "generated"
    world_seed: int = 0
    table_seed: int = 0
    friction_low: float = 0.02
    friction_high: float = 2.0
    friction_values: list[float] = field(default_factory=list)
    on_exhausted: str = "error"
    fixed_friction: float = 1.0
    cyclic_values: list[float] = field(default_factory=lambda: [1.0, 0.1])
    ramp: int | None = None
    update_every: int = 10_000
    sinusoid_center: float = 0.2
    sinusoid_factor: float = 10.0
    sinusoid_period: int = 4_000_000
    sinusoid_phase: float = 0.0

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("switch_rule", self.switch_rule, SWITCH_RULES)
        one_of("source", self.source, SOURCES)
        one_of("on_exhausted", self.on_exhausted, ("error", "cycle"))
        for name in ("switch_interval", "update_every", "sinusoid_period"):
            at_least(name, getattr(self, name), 1)
        for name in ("world_seed", "table_seed"):
            at_least(name, getattr(self, name), 0)
        if self.ramp is not None:
            at_least("ramp", self.ramp, 1)
        if self.fixed_friction != 1.0 and self.schedule != "fixed":
            raise ValueError(
                f"fixed_friction={self.fixed_friction} is not read by schedule={self.schedule}; "
                "choose schedule=fixed, or leave it at 1."
            )
        if self.friction_values and "list" not in (self.schedule, self.source):
            raise ValueError(
                f"friction_values is not read by schedule={self.schedule} source={self.source}; "
                "choose schedule=list, or leave it empty."
            )
        for name in ("friction_low", "friction_high", "fixed_friction", "sinusoid_center"):
            checked_friction(getattr(self, name), name)
        if self.friction_low >= self.friction_high:
            raise ValueError(
                f"friction_low={self.friction_low} must be below "
                f"friction_high={self.friction_high}; swap or widen them."
            )
        if not math.isfinite(self.sinusoid_factor) or self.sinusoid_factor <= 1.0:
            raise ValueError(
                f"sinusoid_factor={self.sinusoid_factor} must be a finite number above 1; "
                "10 makes the friction swing between center / 10 and center * 10."
            )
        if not math.isfinite(self.sinusoid_phase):
            raise ValueError(f"sinusoid_phase={self.sinusoid_phase} must be finite (radians).")
        if self.schedule in ("gradual", "sinusoidal") and self.switch_rule != "exact":
            raise ValueError(
                f"schedule={self.schedule} drifts in all environments at once and has no "
                "switch_rule=episode_end; leave switch_rule at exact."
            )
        make_schedule(self)  # lists, tables and rows are checked where they are read


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(allowed)}.")


def at_least(name: str, value: int, low: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r} must be an integer of at least {low}.")


class Schedule(Protocol):
    """Friction over environment steps."""

    drifting: bool
    """True if the friction moves under running episodes, which are then never cut."""

    @property
    def num_worlds(self) -> int | None:
        """Worlds available, None for no limit."""
        ...

    def regime_at(self, env_steps: int) -> int:
        """World index in force after ``env_steps`` transitions."""
        ...

    def value(self, regime: int) -> float:
        """Friction at the start of world ``regime``."""
        ...

    def value_at(self, env_steps: int) -> float:
        """Friction in force after ``env_steps`` transitions."""
        ...

    def describe(self) -> dict[str, object]:
        """Plain values that identify the schedule."""
        ...


class Stepwise:
    """One constant friction per world, ``interval`` steps each."""

    drifting = False

    def __init__(self, worlds: Worlds, interval: int) -> None:
        self._worlds, self._interval = worlds, interval
        self.num_worlds = worlds.length

    def regime_at(self, env_steps: int) -> int:
        return env_steps // self._interval

    def value(self, regime: int) -> float:
        return self._worlds.value(regime)

    def value_at(self, env_steps: int) -> float:
        return self.value(self.regime_at(env_steps))

    def describe(self) -> dict[str, object]:
        return {"shape": "stepwise", "interval": self._interval, **self._worlds.describe()}


class Gradual:
    """ln F = (1 - s) ln F_k + s ln F_{k+1}, s = min((t - t_k) / ramp, 1), t_k = k * interval."""

    drifting = True

    def __init__(self, worlds: Worlds, interval: int, ramp: int, update_every: int) -> None:
        self._worlds, self._interval = worlds, interval
        self._ramp, self._update_every = ramp, update_every
        self.num_worlds = None if worlds.length is None else worlds.length - 1

    def regime_at(self, env_steps: int) -> int:
        return _rounded_down(env_steps, self._update_every) // self._interval

    def value(self, regime: int) -> float:
        return self._worlds.value(regime)

    def value_at(self, env_steps: int) -> float:
        time = _rounded_down(env_steps, self._update_every)
        regime, elapsed = divmod(time, self._interval)
        share = min(elapsed / self._ramp, 1.0)
        log_now = math.log(self._worlds.value(regime))
        log_next = math.log(self._worlds.value(regime + 1))
        return math.exp((1.0 - share) * log_now + share * log_next)

    def describe(self) -> dict[str, object]:
        timing = [self._interval, self._ramp, self._update_every]
        return {"shape": "gradual", "timing": timing, **self._worlds.describe()}


class Sinusoidal:
    """ln F(t) = ln center + ln factor * sin(2 pi t / period + phase); a regime is one period."""

    drifting = True
    num_worlds = None

    def __init__(
        self, center: float, factor: float, period: int, phase: float, update_every: int
    ) -> None:
        self._center, self._factor, self._period = center, factor, period
        self._phase, self._update_every = phase, update_every

    def regime_at(self, env_steps: int) -> int:
        return _rounded_down(env_steps, self._update_every) // self._period

    def value(self, regime: int) -> float:
        return self.value_at(regime * self._period)

    def value_at(self, env_steps: int) -> float:
        time = _rounded_down(env_steps, self._update_every)
        angle = 2.0 * math.pi * (time % self._period) / self._period + self._phase
        return math.exp(math.log(self._center) + math.log(self._factor) * math.sin(angle))

    def describe(self) -> dict[str, object]:
        numbers = [value.hex() for value in (self._center, self._factor, self._phase)]
        timing = [self._period, self._update_every]
        return {"shape": "sinusoidal", "numbers": numbers, "timing": timing}


class Fixed:
    """One friction for ever; the stationary control."""

    drifting = False
    num_worlds = None

    def __init__(self, friction: float) -> None:
        self._friction = friction

    def regime_at(self, env_steps: int) -> int:
        return 0

    def value(self, regime: int) -> float:
        return self._friction

    def value_at(self, env_steps: int) -> float:
        return self._friction

    def describe(self) -> dict[str, object]:
        return {"shape": "fixed", "friction": self._friction.hex()}


def _rounded_down(env_steps: int, update_every: int) -> int:
    return env_steps - env_steps % update_every


def make_schedule(config: ScheduleConfig) -> Schedule:
    """Build the schedule that ``config`` describes.

    Raises:
        ValueError: If a list is empty, a friction is not above 0, or a row is outside the table.
    """
    if config.schedule == "fixed":
        return Fixed(float(config.fixed_friction))
    if config.schedule == "sinusoidal":
        return Sinusoidal(
            float(config.sinusoid_center),
            float(config.sinusoid_factor),
            config.sinusoid_period,
            float(config.sinusoid_phase),
            config.update_every,
        )
    worlds = _worlds(config)
    if config.schedule != "gradual":
        return Stepwise(worlds, config.switch_interval)
    if worlds.length == 1:
        raise ValueError("schedule=gradual moves between worlds and needs at least 2 frictions.")
    ramp = config.switch_interval if config.ramp is None else config.ramp
    return Gradual(worlds, config.switch_interval, ramp, config.update_every)


def _worlds(config: ScheduleConfig) -> Worlds:
    if config.schedule == "cyclic":
        return ListWorlds(config.cyclic_values, cycle=True, name="cyclic_values")
    if config.schedule == "list" or config.source == "list":
        cycle = config.on_exhausted == "cycle"
        return ListWorlds(config.friction_values, cycle=cycle, name="friction_values")
    if config.source == "table":
        return table_worlds(config.world_seed)
    return GeneratedWorlds(
        config.world_seed,
        config.table_seed,
        float(config.friction_low),
        float(config.friction_high),
    )


def schedule_hash(schedule: Schedule, switch_rule: str) -> str:
    """SHA-256 of everything that decides which friction holds when.

    Equal hashes mean equal worlds; a checkpoint is refused by a run whose hash differs.
    """
    content = {"switch_rule": switch_rule, **schedule.describe()}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
