"""Checks of settings that many methods share."""

from __future__ import annotations

import math
from collections.abc import Sequence

NETWORKS = ("policy", "value", "actor", "critic_1", "critic_2", "predictor")
ACTORS = ("policy", "actor", "predictor")
CRITICS = ("critic_1", "critic_2")


def check_networks(
    kind: str, networks: str | list[str], groups: Sequence[str] = ("all", "actors")
) -> str | list[str]:
    """Check which networks a method is to act on.

    Args:
        kind: Id of the method.
        networks: `all`; `actors`, which is what acts in whatever agent (policy, actor,
            predictor); or a list of names, in which `critics` stands for both critics of an
            off-policy agent.
        groups: Which of `all` and `actors` the method knows.

    Returns:
        `all`, `actors`, or the names with `critics` spelt out.

    Raises:
        ValueError: A name does not exist, or the list is empty.
    """
    if networks in groups:
        return networks
    given = [networks] if isinstance(networks, str) else list(networks)
    names = [name for word in given for name in (CRITICS if word == "critics" else (word,))]
    if not names or any(name not in NETWORKS for name in names):
        raise ValueError(
            f"method.{kind}.networks is {networks!r}; give {', '.join(groups)}, or a list of "
            f"{', '.join(NETWORKS)} or critics"
        )
    return names


def acts_on(networks: str | list[str], name: str) -> bool:
    """Whether a checked `networks` setting covers the network of some name.

    Raises:
        ValueError: No setting but `all` covers such a name, so that the method would silently stay
            off.
    """
    if networks == "all":
        return True
    if name not in NETWORKS:
        raise ValueError(
            f"networks={networks!r} does not say whether the network {name!r} is meant; set "
            f"networks='all', or name the network one of {', '.join(NETWORKS)}"
        )
    return name in (ACTORS if networks == "actors" else networks)


def check_choice(where: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless a setting has one of the allowed values."""
    if value not in allowed:
        raise ValueError(f"{where} is {value!r}; choose one of {', '.join(allowed)}")


def check_number(
    where: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise ValueError unless a setting lies between two bounds, which may be excluded."""
    if (value > low if open_low else value >= low) and (
        value < high if open_high else value <= high
    ):
        return
    lower = f"{'above' if open_low else 'at least'} {low:g}" if low > -math.inf else ""
    upper = f"{'below' if open_high else 'at most'} {high:g}" if high < math.inf else ""
    raise ValueError(
        f"{where} is {value}; give a value {' and '.join(filter(None, (lower, upper)))}"
    )
