"""What a command line asks for before Hydra runs it: the members of a sweep, as words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from configs.presets import CONFIG_FOLDER
from configs.schema import ConfigurationError

SEED = "seed"


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


def check_single(words: Sequence[str]) -> None:
    """Refuse words that ask for one run, but do not say which.

    Args:
        words: Of a command line without `-m`.

    Raises:
        ConfigurationError: See `refuse_repeated` and `refuse_forgotten_sweep`.
    """
    refuse_repeated(words)
    refuse_forgotten_sweep(words)


def refuse_forgotten_sweep(words: Sequence[str]) -> None:
    """Refuse one run of an experiment whose runs differ in more than the seed.

    Without `-m`, what an experiment sweeps over is left at values that may belong to none of its
    runs. Who names one of these keys has chosen; an experiment that sweeps over seeds only is
    itself with any seed.

    Args:
        words: Of a command line without `-m`.

    Raises:
        ConfigurationError: Names `-m` and the keys.
    """
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    experiment = given.get("experiment", "")
    swept = {k: v for k, v in swept_by_experiment(experiment).items() if k != SEED}
    if not swept or swept.keys() & given.keys():
        return
    first = [f"{key}={_values(key, value)[0]}" for key, value in swept.items()]
    raise ConfigurationError(
        f"experiment={experiment} is several runs, which differ in {' and '.join(swept)}; add -m "
        f"to train them all, or name one, as in {' '.join(first)}"
    )


def refuse_repeated(words: Sequence[str]) -> None:
    """Refuse a key that is set twice and a value that is swept twice: only one of them would count.

    Args:
        words: Of a command line, with or without `-m`.

    Raises:
        ConfigurationError: Names what is there twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key.startswith("~"):  # `~key` takes away, and may come before `+key=...`
            continue
        name = key.lstrip("+")
        if name in found:
            before = found[name].partition("=")[2]
            both = f", or sweep: -m {name}={before},{value}" if before != value else ""
            raise ConfigurationError(
                f"{found[name]} and {word} set {name} twice; keep one of them{both}"
            )
        found[name] = word
        _refuse_repeated_values(word)


def _refuse_repeated_values(word: str) -> None:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return  # refused with advice where words are read
    if override.is_discrete_sweep():
        values = [*override.sweep_string_iterator()]
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise ConfigurationError(
                f"{word} names {repeated} twice, which would be one run; name each value once"
            )


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
