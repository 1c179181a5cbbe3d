"""What a command line asks for before Hydra runs it: the members of a sweep, as words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from configs.compose import CONFIG_FOLDER
from configs.schema import ConfigurationError


def swept_by_experiment(name: str) -> dict[str, Any]:
    """Keys that an experiment sweeps over, those of the experiments that it varies included.

    Args:
        name: Of a file in configs/experiment; another name sweeps over nothing.

    Returns:
        Key -> values as they would stand on a command line.
    """
    file = CONFIG_FOLDER / "experiment" / f"{name}.yaml"
    if not name or not file.is_file():
        return {}
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    found: dict[str, Any] = {}
    for base in content.get("defaults", []):
        if isinstance(base, str):
            found |= swept_by_experiment(base)
    return found | content.get("hydra", {}).get("sweeper", {}).get("params", {})


def member_words(words: Sequence[str]) -> list[list[str]]:
    """Command lines of all members of a sweep; the last of two words for one key counts.

    Args:
        words: Of the sweep, without `-m`; those about Hydra are left out.

    Raises:
        ConfigurationError: A word cannot be read, or sweeps over a continuous range.
    """
    given = dict(_split(word) for word in words if not word.startswith(("hydra/", "hydra.")))
    planned = swept_by_experiment(given.get("experiment", "")) | given
    choices = [[f"{key}={value}" for value in _values(key, planned[key])] for key in planned]
    return [list(choice) for choice in itertools.product(*choices)]


def _split(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ConfigurationError(f"cannot read {word!r}; words have the form key=value")
    return key, value


def _values(key: str, value: Any) -> list[str]:
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException as error:
        raise ConfigurationError(f"cannot read {key}={value}: {error}") from error
    if not override.is_sweep_override():
        return [str(value)]
    if not override.is_discrete_sweep():
        raise ConfigurationError(f"{key}={value} is a continuous range; list its values")
    return [str(choice) for choice in override.sweep_string_iterator()]
