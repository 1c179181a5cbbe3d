"""Front end of the command line: Hydra groups in, plain values and a run directory name out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from configs.composition import compose_values, typed_keys, whose_setting
from configs.naming import relative_directory
from configs.presets import CONFIG_FOLDER, GROUPS, NO_ARM, declared, method_ids, presets
from configs.run import (
    AGENTS,
    CONTEXTS,
    ENVIRONMENTS,
    METHODS,
    NETWORKS,
    OPTIMIZERS,
    RunConfig,
    load_run,
)
from configs.schema import ConfigurationError, UnknownSetting, flat, to_plain
from networks.registry import suggestion

__all__ = [
    "CONFIG_FOLDER",
    "Composed",
    "check_overrides",
    "compose_run",
    "method_ids",
    "presets",
    "without_none",
]


_REGISTRIES = {
    "agent": AGENTS,
    "env": ENVIRONMENTS,
    "context": CONTEXTS,
    "network": NETWORKS,
    "optimizer": OPTIMIZERS,
    "method": METHODS,
}


@dataclass(frozen=True)
class Composed:
    """A composed and type-checked configuration.

    Attributes:
        config: Typed settings.
        plain: The same as nested plain values, as stored in config.yaml.
        relative_directory: Run directory below `runs_root`, a pure function of the settings.
        overrides: The command line that made it.
        sweep: Name of the sweep that it is a member of, None for a run by itself.
    """

    config: RunConfig
    plain: dict[str, Any]
    relative_directory: str
    overrides: tuple[str, ...]
    sweep: str | None = None

    @property
    def place(self) -> str:
        """The run directory, as it is written for people."""
        named = self.config.run_dir
        return str(named or f"{self.config.runs_root}/{self.relative_directory}")


def compose_run(overrides: Sequence[str]) -> Composed:
    """Compose and check one configuration.

    Args:
        overrides: Command-line words such as `env=slippery_ant` or `agent.discount=0.98`.

    Raises:
        ConfigurationError: One sentence that says what is wrong and what to do.
    """
    overrides = [*map(without_none, overrides)]
    check_overrides(overrides)
    overrides = _without_nothing(overrides)
    values, choices = compose_values(overrides)
    _check_arm(values, choices, overrides)
    try:
        config = load_run(values)
    except UnknownSetting as error:
        raise ConfigurationError(
            whose_setting(error.key, choices, overrides) or str(error)
        ) from error
    plain = to_plain(config)
    directory = relative_directory(config, plain, choices, overrides)
    return Composed(config, plain, directory, tuple(overrides))


def _chooses_nothing(word: str) -> bool:
    """Whether a word says `arm=null` or the like, the default where no experiment has an arm."""
    key, _, value = word.partition("=")
    return key in ("arm", "experiment", "value_network") and value in ("null", "")


def _without_nothing(overrides: Sequence[str]) -> list[str]:
    """Leave out words such as `arm=null`, and undo the arm of an experiment where one says so."""
    words = [word for word in overrides if not _chooses_nothing(word)]
    if any(word.startswith("arm=") and _chooses_nothing(word) for word in overrides):
        chosen = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
        if chosen and "arm" in declared("experiment", chosen[-1])[0]:
            words.append(NO_ARM)
    return words


def without_none(word: str) -> str:
    """`method=none` and `method=none,redo` in a sweep, said with an empty list."""
    key, equals, value = word.partition("=")
    if key != "method":
        return word
    return key + equals + ",".join("[]" if v.strip() == "none" else v for v in value.split(","))


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse unknown groups and presets before Hydra does, with a suggestion.

    Raises:
        ConfigurationError: A word is not `key=value`, or names an unknown preset.
    """
    parser = OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            raise ConfigurationError(f"cannot read {word!r}; {_how_to_write(word)}") from error
        if override.key_or_group == "hydra.searchpath":
            raise ConfigurationError(
                f"{word}: presets are those of configs/ only; put NAME.yaml into the folder of its "
                "group there"
            )
        if override.key_or_group in GROUPS and not override.is_sweep_override():
            _check_choice(word, override.key_or_group, override.value())


def _how_to_write(word: str) -> str:
    key, _, value = word.partition("=")
    if key in ("--cfg", "-c", "--info", "-i"):
        return "python train.py show ... prints a configuration"
    if value == "~" or value.startswith("~/"):  # most shells replace it at the start of words only
        return f"~ is not your home folder here, write {key}=$HOME{value[1:]}"
    return "write key=value, for example agent.discount=0.98"


def _check_choice(word: str, group: str, value: Any) -> None:
    """Refuse what is no preset of a group, and a list of presets that cannot hold together."""
    names = value if isinstance(value, list) else [value]
    known = presets(group)
    is_empty = not names and group != "method"
    if is_empty or (None in names and not _chooses_nothing(word)):
        hint = "write method=none" if group == "method" else f"choose one of {', '.join(known)}"
        raise ConfigurationError(f"{word!r} chooses nothing; {hint}")
    for name in names:
        if name is not None and str(name) not in known:
            registry = _REGISTRIES.get(group)
            if registry is not None and str(name) in registry.names():
                raise ConfigurationError(
                    f"{registry.package.replace('.', '/')}/{name}.py has no preset of its name; "
                    f"write configs/{group}/{name}.yaml, with kind: {name} and its settings"
                )
            raise ConfigurationError(
                f"there is no {group} {str(name)!r}{suggestion(str(name), known)}; choose one of "
                f"{', '.join(known)}"
            )
    if isinstance(value, list) and group != "method":
        several = f", or sweep: -m {group}={','.join(map(str, names))}" if len(names) > 1 else ""
        raise ConfigurationError(
            f"{word!r} is a list, and only method takes one; write {group}={names[0]}{several}"
        )
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(f"{word!r} names {', '.join(repeated)} twice")
    if group == "method":
        _check_methods(word, [str(name) for name in names if name is not None])


def _check_methods(word: str, names: Sequence[str]) -> None:
    """Refuse two presets of one method: the settings of the later one would replace the other's."""
    users: dict[str, list[str]] = {}
    for name in names:
        for method in method_ids(name):
            users.setdefault(method, []).append(name)
    for method, several in users.items():
        if len(several) > 1:
            raise ConfigurationError(
                f"{word!r}: {' and '.join(several)} are presets of one method, {method}; choose one"
            )


def _check_arm(
    values: Mapping[str, Any], choices: Mapping[str, Any], overrides: Sequence[str]
) -> None:
    """Refuse an arm of which an experiment has silently undone a part.

    Raises:
        ConfigurationError: A group or a setting is not what the arm makes it, and no word says so.
    """
    arm, experiment = choices.get("arm"), choices.get("experiment")
    if not arm or not experiment:
        return
    groups, settings = declared("arm", str(arm))
    given = typed_keys(overrides)
    theirs, known = declared("experiment", str(experiment))[0], flat(values)
    for key, wanted in {**groups, **settings}.items():
        found = choices.get(key) if key in groups else known.get(key)
        if key == "method":  # Hydra does not say which presets a list of them has become
            wanted, found = _listed(wanted), _listed(theirs.get(key, wanted))
        if key in given or found == wanted or "${" in str(wanted):
            continue
        raise ConfigurationError(
            f"arm={arm} is {_word(key, wanted)}, but experiment={experiment} sets "
            f"{_word(key, found)}; add {_word(key, wanted)} to the command line to have the arm, "
            f"or {_word(key, found)} to have the experiment"
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(key: str, value: Any) -> str:
    """A setting as it would stand on a command line."""
    if isinstance(value, list):
        return f"{key}=[{','.join(map(str, value))}]"
    return f"{key}={json.dumps(value) if value is None or isinstance(value, bool) else value}"
