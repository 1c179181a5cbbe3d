"""Which quantity of the world changes, and how it changes over time.

Source: Dohare et al., Nature 632:768-774 (2024) for the abrupt schedule of friction (a new one
every 2 million steps); the other schedules and quantities are ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from envs import modifiers
from envs.laws import Law
from envs.reading import refuse_unread
from envs.shapes import (
    EqualIntervals,
    Fixed,
    GeometricIntervals,
    Gradual,
    Intervals,
    Schedule,
    Sinusoidal,
    Stepwise,
)
from envs.worlds import GeneratedWorlds, ListWorlds, ScheduleExhausted, Worlds, table_worlds

__all__ = ["Schedule", "ScheduleConfig", "ScheduleExhausted", "make_schedule"]

SCHEDULES = ("abrupt", "list", "cyclic", "gradual", "sinusoidal", "fixed")
SOURCES = ("generated", "table", "list")
SWITCH_RULES = ("exact", "episode_end")
INTERVALS = ("fixed", "geometric")


def later(default: Any) -> Any:
    """Field of a setting that came after the first runs.

    At its default it is left out of config.yaml, so that runs from before it can go on.
    """
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class ScheduleConfig:
    """Which value holds when. All counts are environment steps summed over environments.

    Friction is told by ``friction_low``, ``friction_high``, ``friction_values``,
    ``fixed_friction``, ``cyclic_values``, ``sinusoid_center`` and ``sinusoid_factor``; every other
    quantity by ``low``, ``high``, ``values`` and ``fixed_value``. A setting that the chosen
    schedule or quantity does not read is refused unless it is at its default; seeds,
    ``switch_interval`` and ``switch_rule`` are not.

    Attributes:
        schedule: abrupt (one constant value per world), list (the same with the values given),
            cyclic (the values again and again), gradual (from world k to world k + 1),
            sinusoidal or fixed.
        switch_interval: Length of a world in environment steps; with intervals=geometric the mean.
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
        update_every: How often a drifting value is written, and the shortest world of
            intervals=geometric, in environment steps.
        sinusoid_center: Geometric mean of the sinusoid of friction.
        sinusoid_factor: That sinusoid runs from center / factor to center * factor.
        sinusoid_period: Period of the sinusoid in environment steps.
        sinusoid_phase: Phase in radians.
        modifier: What changes: a file of ``envs/modifiers/``, or several of them at once, each
            with draws of its own.
        intervals: fixed (every world is equally long) or geometric (random lengths).
        low: Smallest value that is drawn; None is the quantity's own, as in ``high``.
        high: Largest value that is drawn.
        values: The worlds of schedule=list, source=list or schedule=cyclic; an empty list makes
            cyclic alternate between two of the quantity's own.
        fixed_value: The value of schedule=fixed; None is the unchanged world.
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
    modifier: str | tuple[str, ...] = later("friction")
    intervals: str = later("fixed")
    low: float | None = later(None)
    high: float | None = later(None)
    values: tuple[float, ...] = later(())
    fixed_value: float | None = later(None)

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("switch_rule", self.switch_rule, SWITCH_RULES)
        one_of("source", self.source, SOURCES)
        one_of("on_exhausted", self.on_exhausted, ("error", "cycle"))
        one_of("intervals", self.intervals, INTERVALS)
        for name in ("switch_interval", "update_every", "sinusoid_period"):
            at_least(name, getattr(self, name), 1)
        for name in ("world_seed", "table_seed"):
            at_least(name, getattr(self, name), 0)
        if self.ramp is not None:
            at_least("ramp", self.ramp, 1)
        _check_modifiers(self)
        _check_friction(self)
        refuse_unread(self)
        if self.schedule in ("gradual", "sinusoidal") and self.switch_rule != "exact":
            raise ValueError(
                f"schedule={self.schedule} drifts in all environments at once and has no "
                "switch_rule=episode_end; leave switch_rule at exact."
            )
        _check_drift(self)
        make_schedules(self)  # lists, tables and rows are checked where they are read

    @property
    def modifiers(self) -> tuple[str, ...]:
        """Names of the quantities that change; the first one is the regime's value."""
        return (self.modifier,) if isinstance(self.modifier, str) else tuple(self.modifier)

    @property
    def laws(self) -> dict[str, Law]:
        """Name -> range and scale of every quantity that changes."""
        return {name: _law(self, name, None) for name in self.modifiers}


def fixed_settings(config: ScheduleConfig) -> dict[str, Any]:
    """Changes to ``config`` for an unchanging world of the same quantities; use with ``replace``.

    All settings that schedule=fixed does not read go back to their defaults.
    """
    kept = {"switch_interval", "world_seed", "table_seed", "modifier"}
    plain = ScheduleConfig()
    changes = {name: value for name, value in vars(plain).items() if name not in kept}
    changes["schedule"] = "fixed"
    if config.schedule == "fixed":
        changes |= {name: getattr(config, name) for name in ("fixed_friction", "fixed_value")}
    return changes


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(allowed)}.")


def at_least(name: str, value: int, low: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r} must be an integer of at least {low}.")


def _check_modifiers(config: ScheduleConfig) -> None:
    names = config.modifiers
    if not names:
        raise ValueError(
            f"modifier is empty; choose one of {', '.join(modifiers.names())}, or schedule=fixed "
            "for a world that does not change."
        )
    for name in names:
        law = modifiers.get(name).LAW
        if law.scale == "whole" and config.schedule in ("gradual", "sinusoidal"):
            raise ValueError(
                f"modifier={name} numbers its worlds, so nothing lies between two of them and "
                f"schedule={config.schedule} has no meaning; choose abrupt, list or cyclic."
            )
    law = modifiers.get(names[0]).LAW
    draws = config.schedule == "abrupt" and config.source == "generated"
    if len(names) == 1 and law.scale == "whole" and draws and config.low == config.high is not None:
        raise ValueError(
            f"low={config.low:g} and high={config.high:g} leave one world of modifier={names[0]}, "
            f"so that nothing would ever change; choose schedule=fixed fixed_value={config.low:g}, "
            "or widen them."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"modifier={list(names)} names a quantity twice; name each once.")
    if config.source == "table" and names != ("friction",):
        raise ValueError(
            f"source=table holds frictions, not modifier={'+'.join(names)}; leave source at "
            "generated, or choose source=list."
        )


def _check_drift(config: ScheduleConfig) -> None:
    """A drifting value must be written often enough to drift."""
    every, ramp = config.update_every, config.ramp or config.switch_interval
    if config.schedule == "sinusoidal" and 4 * every > config.sinusoid_period:
        raise ValueError(
            f"sinusoid_period={config.sinusoid_period} is less than four times "
            f"update_every={every}, so that the value would not follow the sinusoid; lower "
            "update_every, or lengthen the period."
        )
    if config.schedule == "gradual" and not every <= ramp <= config.switch_interval:
        raise ValueError(
            f"schedule=gradual needs update_every={every} <= ramp={ramp} <= "
            f"switch_interval={config.switch_interval}: a change that is written less often than "
            "it takes is none, and one that takes longer than a world ends in a jump."
        )


def _check_friction(config: ScheduleConfig) -> None:
    friction = modifiers.get("friction").LAW
    for name in ("friction_low", "friction_high", "fixed_friction", "sinusoid_center"):
        friction.check(getattr(config, name), name)
    if config.friction_low >= config.friction_high:
        raise ValueError(
            f"friction_low={config.friction_low} must be below "
            f"friction_high={config.friction_high}; swap or widen them."
        )
    if not math.isfinite(config.sinusoid_factor) or config.sinusoid_factor <= 1.0:
        raise ValueError(
            f"sinusoid_factor={config.sinusoid_factor} must be a finite number above 1; "
            "10 makes the friction swing between center / 10 and center * 10."
        )
    if config.schedule == "sinusoidal":
        lowest = config.sinusoid_center / config.sinusoid_factor
        friction.check(lowest, "the lowest friction, sinusoid_center / sinusoid_factor,")
    if not math.isfinite(config.sinusoid_phase):
        raise ValueError(f"sinusoid_phase={config.sinusoid_phase} must be finite (radians).")


def _law(config: ScheduleConfig, name: str, count: int | None) -> Law:
    law: Law = modifiers.get(name).LAW
    if name == "friction":
        return law.narrowed(float(config.friction_low), float(config.friction_high), count)
    return law.narrowed(config.low, config.high, count)


def make_schedule(config: ScheduleConfig) -> Schedule:
    """Build the schedule of the (first) quantity that ``config`` describes.

    Raises:
        ValueError: If a list is empty, a value is not possible, or a row is outside the table.
    """
    return make_schedules(config)[config.modifiers[0]]


def make_schedules(config: ScheduleConfig, num_actuators: int | None = None) -> dict[str, Schedule]:
    """Build the schedule of every quantity: name -> schedule; all switch at the same times.

    Args:
        config: What changes and when.
        num_actuators: Of the robot; None where only the settings are to be checked.

    Raises:
        ValueError: If a list is empty, a value is not possible, or a row is outside the table.
    """
    return {name: _schedule(config, name, num_actuators) for name in config.modifiers}


def _schedule(config: ScheduleConfig, name: str, num_actuators: int | None) -> Schedule:
    law, is_friction = _law(config, name, num_actuators), name == "friction"
    if config.schedule == "fixed":
        value = config.fixed_friction if is_friction else config.fixed_value
        value = law.nominal if value is None else law.check(value, "fixed_value")
        return Fixed(float(value), "friction" if is_friction else "value")
    if config.schedule == "sinusoidal":
        swing = law.swing()
        if is_friction:
            swing = float(config.sinusoid_center), float(config.sinusoid_factor)
        phase, update_every = float(config.sinusoid_phase), config.update_every
        return Sinusoidal(law, swing, config.sinusoid_period, phase, update_every)
    worlds = _worlds(config, name, law)
    if config.schedule != "gradual":
        return Stepwise(worlds, _intervals(config))
    if worlds.length == 1:
        raise ValueError("schedule=gradual moves between worlds and needs at least 2 values.")
    ramp = config.switch_interval if config.ramp is None else config.ramp
    return Gradual(worlds, law, config.switch_interval, ramp, config.update_every)


def visited_range(config: ScheduleConfig, name: str) -> tuple[float, float]:
    """Smallest and largest value of one quantity: of what may be drawn, and of what is listed."""
    law, is_friction = config.laws[name], name == "friction"
    found = [law.low, law.top]
    if config.schedule == "cyclic":
        found += config.cyclic_values if is_friction else config.values
    elif config.schedule == "list" or config.source == "list":
        found += config.friction_values if is_friction else config.values
    elif config.schedule == "fixed":
        found.append(make_schedules(config)[name].value(0))
    elif config.schedule == "sinusoidal" and is_friction:
        centre, factor = config.sinusoid_center, config.sinusoid_factor
        found += [centre / factor, centre * factor]
    return min(found), max(found)


def count_cycle(config: ScheduleConfig) -> int:
    """Worlds of schedule=cyclic until all quantities are back where they began."""
    lengths = []
    for name in config.modifiers:
        values = config.cyclic_values if name == "friction" else config.values
        lengths.append(len(values) or len(config.laws[name].pair()))
    return math.lcm(*lengths)


def _intervals(config: ScheduleConfig) -> Intervals:
    if config.intervals == "fixed":
        return EqualIntervals(config.switch_interval)
    return GeometricIntervals(
        config.switch_interval, config.update_every, config.table_seed, config.world_seed
    )


def _worlds(config: ScheduleConfig, name: str, law: Law) -> Worlds:
    is_friction = name == "friction"
    listed = config.friction_values if is_friction else config.values
    called = "friction_values" if is_friction else "values"
    if config.schedule == "cyclic":
        pair = config.cyclic_values if is_friction else list(config.values) or law.pair()
        called = "cyclic_values" if is_friction else "values"
        return ListWorlds(pair, law, cycle=True, name=called)
    if config.schedule == "list" or config.source == "list":
        return ListWorlds(listed, law, cycle=config.on_exhausted == "cycle", name=called)
    if config.source == "table":
        return table_worlds(config.world_seed)
    # Friction keeps the stream that published rows were drawn from; every other quantity has one
    # of its own, so that several do not move together.
    stream = () if is_friction else (0, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]))
    return GeneratedWorlds(config.world_seed, config.table_seed, law, stream)


def schedule_hash(schedules: Schedule | dict[str, Schedule], switch_rule: str) -> str:
    """SHA-256 of everything that decides which value holds when.

    Equal hashes mean equal worlds; a checkpoint is refused by a run whose hash differs.

    Args:
        schedules: Of every quantity by name; a single one is friction's.
        switch_rule: exact or episode_end.
    """
    named = schedules if isinstance(schedules, dict) else {"friction": schedules}
    content: dict[str, object] = {"switch_rule": switch_rule}
    if list(named) == ["friction"]:
        content |= named["friction"].describe()
    else:
        content["quantities"] = [[name, named[name].describe()] for name in named]
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
