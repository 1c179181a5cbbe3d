"""Which configurations of an arm are tried: its default, and draws from published ranges.

Every arm is tried equally often, and the learning rate is an axis of every arm, the baseline
included. Source: Mesbahi et al. (2024), arXiv 2404.02113.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from configs.compose import CONFIG_FOLDER
from configs.schema import ConfigurationError

RANGES = CONFIG_FOLDER / "tuning"
DEFAULT = "default"
LEARNING_RATES = (1 / 3, 1.0, 3.0)

Value = float | int | str | bool
Axes = dict[str, tuple[Value, ...]]


def axes_of(plain: Mapping[str, Any]) -> Axes:
    """Key -> values to choose from, for one arm.

    Args:
        plain: Its composed configuration as nested plain values.

    Returns:
        Multiples of the learning rate, then the ranges of the agent, the optimizer and the
        methods in `configs/tuning/<kind>.yaml`. Multiples of 0 are left out.

    Raises:
        ConfigurationError: A method has no ranges, or a file names what its part has not.
    """
    axes: Axes = {}
    axes["optimizer.learning_rate"] = _multiples(plain["optimizer"], "learning_rate")
    for place in ("agent", "optimizer"):
        axes |= _ranges(place, plain[place], needed=False)
    for identifier, settings in plain["method"].items():
        axes |= _ranges(f"method.{identifier}", settings, needed=True)
    return axes


def _ranges(place: str, settings: Mapping[str, Any], needed: bool) -> Axes:
    file = RANGES / f"{settings['kind']}.yaml"
    if not file.is_file():
        if not needed:
            return {}
        raise ConfigurationError(
            f"{place} has no ranges to tune; write them to configs/tuning/{file.name}, as in "
            "values: {strength: [1.0e-4, 1.0e-3]}"
        )
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    found: Axes = {}
    for way in ("values", "multiples"):
        for key, given in content.get(way, {}).items():
            if key not in settings:
                raise ConfigurationError(f"configs/tuning/{file.name}: {place} has no {key!r}")
            values = tuple(given) if way == "values" else _multiples(settings, key, given)
            if values:
                found[f"{place}.{key}"] = values
    return found


def _multiples(
    settings: Mapping[str, Any], key: str, factors: Sequence[float] = LEARNING_RATES
) -> tuple[Value, ...]:
    default = settings[key]
    if isinstance(default, str) or not default:
        return ()
    return tuple(type(default)(default * factor) for factor in factors)


def draw(
    axes: Mapping[str, Sequence[Value]], defaults: Mapping[str, Value], budget: int, seed: int
) -> dict[str, dict[str, Value]]:
    """Draw distinct configurations uniformly with Optuna; the default is the first.

    Args:
        axes: Key -> values.
        defaults: Key -> the arm's own value; a draw that equals all of them is no new one.
        budget: How many, the default included.
        seed: Of the draws.

    Returns:
        Name -> key -> value; only what differs from the arm's own values.

    Raises:
        ConfigurationError: Fewer configurations than that exist, or Optuna is not installed.
    """
    size = 1
    for key, values in axes.items():
        size *= len({*values, defaults[key]})
    if budget > size:
        raise ConfigurationError(
            f"tune.budget={budget}, but the ranges of {', '.join(axes)} allow {size} "
            "configurations; lower it for all arms, or widen the ranges in configs/tuning/"
        )
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigurationError(
            "tuning needs Optuna, which is not installed; install it with: pip install -e '.[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    choices = {
        key: optuna.distributions.CategoricalDistribution(
            list(dict.fromkeys([defaults[key], *values]))
        )
        for key, values in axes.items()
    }
    found: dict[str, dict[str, Value]] = {DEFAULT: {}}
    while len(found) < budget:
        drawn = study.ask(choices).params
        changed = {key: value for key, value in drawn.items() if value != defaults[key]}
        if changed not in found.values():
            found[f"draw_{len(found)}"] = changed
    return found
