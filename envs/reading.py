"""Which settings of a schedule are read by which schedule and quantity: one table.

`configs.reading` has those of contexts and agents, and the same search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from envs import modifiers

if TYPE_CHECKING:
    from envs.schedules import ScheduleConfig


@dataclass(frozen=True)
class Reader:
    """Who reads a setting.

    Attributes:
        who: For the user, to follow "is read by".
        reads: The same as a question to a configuration.
    """

    who: str
    reads: Callable[[Any], bool]


@dataclass(frozen=True)
class Unread:
    """A setting away from its default that nobody reads.

    Attributes:
        name: Its name.
        value: What it is set to.
        default: What it may be left at.
        who: Who reads it, to follow "is read by".
    """

    name: str
    value: Any
    default: Any
    who: str


def unread(settings: Any, readers: Mapping[str, Reader], asked: Any) -> Iterator[Unread]:
    """Settings away from their defaults that the choices beside them ignore.

    Args:
        settings: A dataclass with defaults.
        readers: Name of a setting -> who reads it; others are read always.
        asked: The configuration that readers are asked about.
    """
    for item in fields(settings):
        reader = readers.get(item.name)
        if reader is None or reader.reads(asked):
            continue
        value, default = getattr(settings, item.name), _default(item)
        same = list(value) == list(default) if isinstance(default, list | tuple) else None
        if not (value == default or same):
            shown = list(value) if isinstance(value, tuple) else value
            yield Unread(item.name, shown, default, reader.who)


def _friction(config: ScheduleConfig) -> bool:
    return "friction" in config.modifiers


def _other(config: ScheduleConfig) -> bool:
    """Exactly one quantity beside friction: two would have to share one range."""
    return len([name for name in config.modifiers if name != "friction"]) == 1


def _numbers(config: ScheduleConfig) -> bool:
    """Whether the other quantity only names its worlds: then its range has no two ends."""
    return any(modifiers.get(name).LAW.scale == "whole" for name in config.modifiers)


def _draws(config: ScheduleConfig) -> bool:
    return config.schedule in ("abrupt", "gradual")


def _generates(config: ScheduleConfig) -> bool:
    return _draws(config) and config.source == "generated"


def _lists(config: ScheduleConfig) -> bool:
    return config.schedule == "list" or (_draws(config) and config.source == "list")


def _swings(config: ScheduleConfig) -> bool:
    return config.schedule == "sinusoidal"


def _ranges(config: ScheduleConfig) -> bool:
    alternates = config.schedule == "cyclic" and not config.values
    return (_generates(config) or _swings(config) or alternates) and _other(config)


_DRAWING = "schedule=abrupt or gradual with source=generated"
_LISTING = "schedule=list, and schedule=abrupt or gradual with source=list"
_ONE_OTHER = "and exactly one modifier other than friction"
_OF_FRICTION = "and modifier=friction"
# world_seed, table_seed and switch_interval are left out: seeds also decide the start states, and
# the stationary control of an experiment, or its drifting one, is the same command with
# schedule=fixed or sinusoidal, although neither reads the interval that the experiment sets. So is
# switch_rule, which fixed worlds do not read and drifting ones refuse in a sentence of their own.
READERS = {
    "source": Reader("schedule=abrupt or gradual", _draws),
    "friction_low": Reader(f"{_DRAWING} {_OF_FRICTION}", lambda c: _generates(c) and _friction(c)),
    "friction_high": Reader(f"{_DRAWING} {_OF_FRICTION}", lambda c: _generates(c) and _friction(c)),
    "friction_values": Reader(f"{_LISTING}, {_OF_FRICTION}", lambda c: _lists(c) and _friction(c)),
    "on_exhausted": Reader(_LISTING, _lists),
    "fixed_friction": Reader(
        f"schedule=fixed {_OF_FRICTION}", lambda c: c.schedule == "fixed" and _friction(c)
    ),
    "cyclic_values": Reader(
        f"schedule=cyclic {_OF_FRICTION}", lambda c: c.schedule == "cyclic" and _friction(c)
    ),
    "ramp": Reader("schedule=gradual", lambda c: c.schedule == "gradual"),
    "update_every": Reader(
        "schedule=gradual or sinusoidal, and intervals=geometric",
        lambda c: c.schedule in ("gradual", "sinusoidal") or c.intervals == "geometric",
    ),
    "sinusoid_center": Reader(
        f"schedule=sinusoidal {_OF_FRICTION}", lambda c: _swings(c) and _friction(c)
    ),
    "sinusoid_factor": Reader(
        f"schedule=sinusoidal {_OF_FRICTION}", lambda c: _swings(c) and _friction(c)
    ),
    "sinusoid_period": Reader("schedule=sinusoidal", _swings),
    "sinusoid_phase": Reader("schedule=sinusoidal", _swings),
    "intervals": Reader(
        "schedule=abrupt, list or cyclic", lambda c: c.schedule in ("abrupt", "list", "cyclic")
    ),
    "low": Reader(
        f"{_DRAWING}, schedule=sinusoidal and schedule=cyclic without values, {_ONE_OTHER}",
        _ranges,
    ),
    "high": Reader(
        f"{_DRAWING}, schedule=sinusoidal and schedule=cyclic without values (which alternates "
        f"between 0 and low where whole numbers name the worlds), {_ONE_OTHER}",
        lambda c: _ranges(c) and not (c.schedule == "cyclic" and _numbers(c)),
    ),
    "values": Reader(
        f"{_LISTING}, and schedule=cyclic, {_ONE_OTHER}",
        lambda c: (_lists(c) or c.schedule == "cyclic") and _other(c),
    ),
    "fixed_value": Reader(
        f"schedule=fixed {_ONE_OTHER}", lambda c: c.schedule == "fixed" and _other(c)
    ),
}


def refuse_unread(config: ScheduleConfig) -> None:
    """Refuse settings away from their defaults that the chosen schedule or quantity ignores.

    Raises:
        ValueError: Naming the setting, the choice that ignores it, and who reads it.
    """
    for found in unread(config, READERS, config):
        twin = _of_friction(found.name, config)
        is_told = twin is not None and READERS[twin].reads(config)
        instead = f", while friction is told by {twin}={found.value}" if is_told else ""
        raise ValueError(
            f"{found.name}={found.value} is not read by schedule={config.schedule} "
            f"source={config.source} modifier={'+'.join(config.modifiers)}; it is read by "
            f"{found.who}{instead}: choose that, or leave {found.name} at {found.default}."
        )


def _of_friction(name: str, config: ScheduleConfig) -> str | None:
    """What a setting of other quantities is called for friction; None for all other settings."""
    if name == "values":
        return "cyclic_values" if config.schedule == "cyclic" else "friction_values"
    twins = {"low": "friction_low", "high": "friction_high", "fixed_value": "fixed_friction"}
    return twins.get(name)


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()
