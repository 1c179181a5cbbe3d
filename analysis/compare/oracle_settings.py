"""Which settings decide whether fresh networks of one run may stand for those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.canonical_json import canonical_json
from analysis.compare.arms import learning_settings

# Raise it when area, end of phase or the untrained return are measured in another way.
MEASURES_VERSION = 1
INTERVAL_KEY = "switch_interval"
# Which world follows when; in a single world of a fresh network none of it is read.
_SCHEDULE = frozenset(
    {
        *("schedule", INTERVAL_KEY, "switch_rule", "source", "table_seed", "friction_low"),
        *("friction_high", "friction_values", "on_exhausted", "fixed_friction", "cyclic_values"),
        *("ramp", "update_every", "sinusoid_center", "sinusoid_factor", "sinusoid_period"),
        *("sinusoid_phase", "intervals", "low", "high", "values", "fixed_value"),
    }
)
# How long a run lasts, and what happens at switches: a fresh network meets none.
_LIFE = frozenset({"total_steps", "boundary", "fresh_at_switch"})


def world_value(env: Mapping[str, Any]) -> float:
    """Value of the quantity that is fixed in a run in a single world.

    Args:
        env: Settings of its environment.

    Raises:
        ValueError: It is no run in a single world, or several quantities could differ.
    """
    schedule = env.get("schedule", "absent")
    if schedule != "fixed":
        raise ValueError(f"env.schedule is {schedule}, not fixed")
    quantity = env.get("modifier", "friction")
    if not isinstance(quantity, str):
        raise ValueError(f"env.modifier names {len(quantity)} quantities; a grid has one")
    value = env.get("fixed_friction" if quantity == "friction" else "fixed_value")
    if value is None:
        raise ValueError(f"it does not say which {quantity} it has (env.fixed_value)")
    return float(value)


def refuse_schedule(env: Mapping[str, Any]) -> None:
    """Refuse worlds that fresh networks in single worlds cannot stand for.

    Args:
        env: Settings of the environment of a comparison.

    Raises:
        ValueError: Regimes drift, are unequally long, or have several values.
    """
    named = {
        "schedule": ("abrupt", "list", "cyclic"),
        "switch_rule": ("exact",),
        "intervals": ("fixed",),
    }
    for key, allowed in named.items():
        value = env.get(key, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"an interpolated oracle stands for whole regimes of one value and length, but "
                f"env.{key} is {value}; train arm=fresh_oracle on every seed instead"
            )
    if not isinstance(quantity := env.get("modifier", "friction"), str):
        raise ValueError(
            f"an interpolated oracle stands for one quantity, but env.modifier names "
            f"{', '.join(quantity)}; train arm=fresh_oracle on every seed instead"
        )


@dataclass(frozen=True)
class OracleSettings:
    """What a table of fresh networks was made with; it stands for nothing else.

    Attributes:
        environment: Dotted settings of the environment, without those that say when worlds change.
        agent: Dotted settings of agent, networks, optimizer, methods and context.
        interval: Environment steps that a fresh network learned.
        version: Of the measures.
    """

    environment: Mapping[str, Any]
    agent: Mapping[str, Any]
    interval: int
    version: int = MEASURES_VERSION

    @classmethod
    def of(cls, config: Mapping[str, Any], interval: int) -> OracleSettings:
        """Take them from the settings of a run."""
        settings = learning_settings(config)
        environment, agent = {}, {}
        for key, value in settings.items():
            if key.startswith("env."):
                if key.removeprefix("env.") not in _SCHEDULE:
                    environment[key] = value
            elif key not in _LIFE and not (key == "fresh_parts" and not value):
                agent[key] = value
        if agent.get("init_from") is None:
            agent.pop("init_from", None)
        return cls(environment, agent, int(interval))

    @property
    def key(self) -> str:
        """SHA-256 of all of it: equal keys mean that a table may be used again."""
        return hashlib.sha256(canonical_json(self.plain())).hexdigest()

    def plain(self) -> dict[str, Any]:
        """As nested plain values."""
        return {
            "environment": dict(self.environment),
            "agent": dict(self.agent),
            "interval": self.interval,
            "version": self.version,
        }

    def difference(self, other: OracleSettings) -> str:
        """The first setting in which they differ, as `name is this here and that there`; or ''."""
        for what in ("version", "interval"):
            here, there = getattr(self, what), getattr(other, what)
            if here != there:
                return f"{what} is {here} in the table and {there} in the runs"
        for mine, theirs in (
            (self.environment, other.environment),
            (self.agent, other.agent),
        ):
            for key in sorted(mine.keys() | theirs.keys()):
                here, there = mine.get(key, "absent"), theirs.get(key, "absent")
                if here != there:
                    return f"{key} is {here} in the table and {there} in the runs"
        return ""
