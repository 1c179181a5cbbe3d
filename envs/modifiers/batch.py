"""Builds the modifiers that a configuration names."""

from __future__ import annotations

from envs import modifiers
from envs.modifiers.base import Modifiers, Subject
from envs.schedules import ScheduleConfig


def build_modifiers(config: ScheduleConfig, subject: Subject) -> Modifiers:
    """Build what changes these environments.

    Args:
        config: Names the quantities, and lists values that must be possible.
        subject: The environments, still unchanged.

    Raises:
        ValueError: A modifier does not fit the environments, or cannot take a value of the lists.
    """
    members = {name: modifiers.get(name).build(subject) for name in config.modifiers}
    for name, member in members.items():
        listed = [] if name == "friction" else [*config.values, config.fixed_value, config.high]
        for value in listed:
            if value is not None:
                member.check(value)
    return Modifiers(members)
