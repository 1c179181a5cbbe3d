"""Lets Hydra put the groups together, and says in one sentence what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.presets import (
    CONFIG_FOLDER,
    GROUPS,
    SPELLED,
    declared,
    method_ids,
    presets,
    settings_of,
    spelled_for_hydra,
)
from configs.schema import ConfigurationError, flat, unknown_key

MAX_NAMESAKES = 3  # settings of one name in other groups that a refusal suggests


def compose_values(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put the chosen presets and settings together.

    Args:
        overrides: Command-line words.

    Returns:
        Resolved plain values, and the choice of every group as Hydra spells it.

    Raises:
        ConfigurationError: One sentence that says what is wrong and what to do.
    """
    try:
        return _compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_explain(error, overrides)) from error


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """Groups and settings that stand on a command line."""
    return {word.lstrip("+~").partition("=")[0] for word in overrides}


def method_presets(
    overrides: Sequence[str], group: str = "arm", name: str | None = None
) -> list[str] | None:
    """Presets of the group `method`, which Hydra does not tell where there is a list of them.

    Args:
        overrides: Command-line words.
        group: arm or experiment.
        name: Of the one that says which they are where no word does; None for nobody.

    Returns:
        Their names, in hook order; None where nobody says it.
    """
    words = [word for word in overrides if word.startswith("method=")]
    if words:
        value = OverridesParser.create().parse_override(words[-1]).value()
    elif name and "method" in (groups := declared(group, name)[0]):
        value = groups["method"]
    else:
        return None
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def _compose(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        words = [*map(spelled_for_hydra, overrides)]
        composed = compose("train", words, return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_readonly(composed, False)
    with_hydra = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(with_hydra, dict)
    with_hydra.pop("hydra")
    values = OmegaConf.to_container(OmegaConf.create(with_hydra), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}, choices


# Refusals ------------------------------------------------------------------------------------


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Turn Hydra's refusal of an unknown key into a sentence with a suggestion."""
    values = _chosen(overrides)
    known = list(flat(values))
    groups = {key.rpartition(".")[0] for key in known} | set(GROUPS)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key in known or key in groups:
            continue
        if key in str(error) or key.rpartition(".")[2] in str(error):
            return _unknown(key, values)
    return " ".join(str(error).split())


def _chosen(overrides: Sequence[str]) -> dict[str, Any]:
    """Values of the chosen presets, or of the default ones where those do not go together."""
    try:
        return _compose([word for word in overrides if word.partition("=")[0] in GROUPS])[0]
    except (HydraException, OmegaConfBaseException):
        return _compose([])[0]


def _unknown(key: str, values: Mapping[str, Any]) -> str:
    """Sentence about the first part of a key that does not exist among the chosen presets."""
    parts = key.split(".")
    methods = values.get("method") or {}
    if parts[0] == "method" and len(parts) > 1 and parts[1] not in methods:
        return _not_chosen(parts, methods)
    if parts[0] == "value_network" and len(parts) > 1 and values.get("value_network") is None:
        return f"{key} is set but no value_network is chosen; add it, as in value_network=mlp"
    if key == "agent.device":
        kind = values["agent"]["kind"]
        return f"agent.device is of agent=sac; {kind} trains on the CPU, so leave it out"
    namesakes = [k for k in {**flat(values), **values} if k.rpartition(".")[2] == parts[-1]]
    if 0 < len(namesakes) <= MAX_NAMESAKES:
        return f"there is no setting {key}; did you mean {' or '.join(namesakes)}?"
    node: Any = values
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            names = list(node) if isinstance(node, dict) else []
            known = sorted({*names, *GROUPS}) if depth == 0 else names
            return unknown_key(".".join(parts[: depth + 1]), known)
        node = node[part]
    return f"cannot set {key}"


def _not_chosen(parts: Sequence[str], methods: Mapping[str, Any]) -> str:
    """Sentence about a setting below `method.<name>` where no method has that name."""
    key, name = ".".join(parts), parts[1]
    ids = method_ids(name) if name in presets("method") else [name]
    if name in ids:
        return f"{key} is set but {name} is not chosen; add it, as in method=[{name}]"
    reason = f"settings are named after the method, not after its preset {name}"
    chosen = "" if ids[0] in methods else f" beside method=[{name}]"
    settings = settings_of("method", name)
    meant = ".".join(("method", ids[0], *parts[2:]))
    if len(parts) > 2 and meant not in settings:
        prefix = f"method.{ids[0]}."
        known = [k.removeprefix(prefix) for k in settings if k.startswith(prefix)]
        return f"{unknown_key(meant, known)}{chosen} ({reason})"
    return f"there is no setting {key}; {reason}: write {meant}{chosen}"


def whose_setting(key: str, choices: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """Sentence about an unknown setting that a preset fills in and nobody typed.

    Args:
        key: The dotted name of the setting.
        choices: What was chosen in every group, as Hydra spells it.
        overrides: Command-line words.

    Returns:
        What sets it and what lacks it; None if it was typed, or stands in no chosen preset.
    """
    if any(f"{typed}.".startswith(f"{key}.") for typed in typed_keys(overrides)):
        return None
    group = key.partition(".")[0]
    chosen = [(other, choices.get(SPELLED.get(other, other))) for other in GROUPS]
    for maker in ("arm", "experiment"):
        methods = method_presets(overrides, maker, choices.get(maker))
        chosen += [("method", name) for name in methods or ()]
    for other, name in reversed(chosen):
        if other != group and name in presets(other) and key in settings_of(other, str(name)):
            owner = f"{group}={choices.get(SPELLED.get(group, group))}"
            setter = f"method=[{name}]" if other == "method" else f"{other}={name}"
            return (
                f"{setter} sets {key}, which {owner} does not have; choose another {group}, or "
                f"another {other}"
            )
    return None
