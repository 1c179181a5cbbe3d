"""Front end of the command line: Hydra groups in, plain values and a run directory name out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.run import EXECUTION_KEYS, RunConfig, load_run
from configs.schema import ConfigurationError, flat, to_plain, unknown_key
from networks.registry import suggestion

CONFIG_FOLDER = Path(__file__).resolve().parent
GROUPS = (
    "agent", "env", "context", "network", "value_network",
    "optimizer", "method", "arm", "experiment",
)  # fmt: skip
# Groups that choose among the presets of another one, as Hydra spells them.
_SPELLED = {"value_network": "network@value_network"}
MAX_NAMESAKES = 3  # settings of one name in other groups that a refusal suggests


@dataclass(frozen=True)
class Composed:
    """A composed and type-checked configuration.

    Attributes:
        config: Typed settings.
        plain: The same as nested plain values, as stored in config.yaml.
        relative_directory: Run directory below `runs_root`, a pure function of the settings.
        overrides: The command line that made it.
    """

    config: RunConfig
    plain: dict[str, Any]
    relative_directory: str
    overrides: tuple[str, ...]


def compose_run(overrides: Sequence[str]) -> Composed:
    """Compose and check one configuration.

    Args:
        overrides: Command-line words such as `env=slippery_ant` or `agent.discount=0.98`.

    Raises:
        ConfigurationError: One sentence that says what is wrong and what to do.
    """
    overrides = [*map(without_none, overrides)]
    check_overrides(overrides)
    overrides = [word for word in overrides if not _chooses_nothing(word)]
    values, choices = _compose(overrides)
    _check_arm(values, choices, overrides)
    config = load_run(values)
    plain = to_plain(config)
    directory = _relative_directory(config, plain, choices, overrides)
    return Composed(config, plain, directory, tuple(overrides))


def _chooses_nothing(word: str) -> bool:
    """Whether a word says `arm=null` or the like, which is the default anyway."""
    key, _, value = word.partition("=")
    return key in ("arm", "experiment", "value_network") and value in ("null", "")


def without_none(word: str) -> str:
    """`method=none` and `method=none,redo` in a sweep, said with an empty list."""
    key, equals, value = word.partition("=")
    if key != "method":
        return word
    return key + equals + ",".join("[]" if v.strip() == "none" else v for v in value.split(","))


def spelled_for_hydra(word: str) -> str:
    """A word such as `value_network=mlp` the way Hydra writes it; others as they are."""
    key, equals, value = word.partition("=")
    return f"{_SPELLED.get(key, key)}{equals}{value}"


def presets(group: str) -> list[str]:
    """Names of the presets of one group."""
    folder = CONFIG_FOLDER / _SPELLED.get(group, group).partition("@")[0]
    return sorted(path.stem for path in folder.glob("*.yaml"))


def method_ids(preset: str) -> list[str]:
    """Ids below `method` that one of its presets fills in; `reset_head` is a `reset`."""
    file = CONFIG_FOLDER / "method" / f"{preset}.yaml"
    package = re.match(r"# @package method\.(\w+)", file.read_text(encoding="utf-8"))
    if package:
        return [package[1]]
    content = OmegaConf.to_container(OmegaConf.load(file))
    methods = content.get("method") if isinstance(content, dict) else None
    return [*methods] if isinstance(methods, dict) else [preset]


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


def _compose(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return resolved plain values and the choice of every group."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            words = [*map(spelled_for_hydra, overrides)]
            composed = compose("train", words, return_hydra_config=True)
        choices = dict(composed.hydra.runtime.choices)
        OmegaConf.set_readonly(composed, False)
        with_hydra = OmegaConf.to_container(composed, resolve=False)
        assert isinstance(with_hydra, dict)
        with_hydra.pop("hydra")
        values = OmegaConf.to_container(OmegaConf.create(with_hydra), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_explain(error, overrides)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}, choices


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
    given = {word.lstrip("+~").partition("=")[0] for word in overrides}
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


def declared(group: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a preset of `arm` or `experiment` decides, those included that it builds on.

    Returns:
        Presets that it chooses, by group, and its own settings, by dotted name.
    """
    content = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / group / f"{name}.yaml"))
    assert isinstance(content, dict)
    groups: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    entries = content.pop("defaults", [])
    content.pop("hydra", None)
    for base in entries:
        if isinstance(base, str) and base != "_self_":
            more = declared(group, base.removeprefix(f"/{group}/"))
            groups, settings = groups | more[0], settings | more[1]
    for entry in entries:
        if isinstance(entry, dict):
            groups |= {str(key).removeprefix("override /"): v for key, v in entry.items()}
    return groups, settings | flat({str(key): value for key, value in content.items()})


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Turn Hydra's refusal of an unknown key into a sentence with a suggestion."""
    known = list(flat(_compose([])[0])) if overrides else []
    groups = {key.rpartition(".")[0] for key in known} | set(GROUPS)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key in known or key in groups:
            continue
        if key in str(error) or key.rpartition(".")[2] in str(error):
            return _unknown(key, overrides)
    return " ".join(str(error).split())


def _unknown(key: str, overrides: Sequence[str]) -> str:
    """Sentence about the first part of a key that does not exist, given the chosen groups."""
    chosen = [word for word in overrides if word.partition("=")[0] in GROUPS]
    try:
        values = _compose(chosen)[0]
    except ConfigurationError:
        values = _compose([])[0]
    parts = key.split(".")
    methods = values.get("method") or {}
    if parts[0] == "method" and len(parts) > 1 and parts[1] not in methods:
        return _not_chosen(parts, methods)
    if parts[0] == "value_network" and len(parts) > 1 and values.get("value_network") is None:
        return f"{key} is set but no value_network is chosen; add it, as in value_network=mlp"
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
    meant = ".".join(("method", ids[0], *parts[2:]))
    chosen = "" if ids[0] in methods else f" beside method=[{name}]"
    return (
        f"there is no setting {key}; settings are named after the method, not after its preset "
        f"{name}: write {meant}{chosen}"
    )


def _relative_directory(
    config: RunConfig, plain: dict[str, Any], choices: dict[str, Any], overrides: Sequence[str]
) -> str:
    """Name the run: the presets it uses, and a hash of whatever differs from them."""
    arm, method_words = choices.get("arm"), [w for w in overrides if w.startswith("method=")]
    words = [f"{group}={choices[group]}" for group in ("agent", "env", "network")]
    value_network = choices.get(_SPELLED["value_network"])
    words += [f"value_network={value_network}"] if value_network else []
    words += [f"arm={arm}"] if arm else [f"optimizer={choices['optimizer']}", *method_words[-1:]]
    experiment = choices.get("experiment")
    if experiment and config.group == experiment:
        words.append(f"experiment={experiment}")
    base = flat(to_plain(load_run(_compose([*words, f"seed={config.seed}"])[0])))
    differing = differences(base, flat(plain))
    if config.group in presets("experiment") and config.group != experiment:
        differing["experiment"] = str(experiment)  # not the experiment of that name
    methods = list(config.method)
    if method_words:
        value = OverridesParser.create().parse_override(method_words[-1]).value()
        methods = [str(name) for name in value] if isinstance(value, list) else [str(value)]
        if arm:
            differing["method order"] = methods
    suffix = ""
    if differing:
        canonical = json.dumps(differing, sort_keys=True, separators=(",", ":"))
        suffix = "-" + hashlib.sha256(canonical.encode()).hexdigest()[:8]
    named = ".".join([choices["optimizer"], *(name.strip() for name in methods if name.strip())])
    label = arm or named
    networks = ".".join(filter(None, (choices["network"], value_network)))
    name = f"{choices['agent']}-{networks}-{label}{suffix}"
    return f"{config.group}/{choices['env']}/{name}/seed_{config.seed}"


def differences(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings of `given` that differ from `base`, without seed, group and execution keys."""
    ignored = EXECUTION_KEYS | {"seed", "group"}
    return {
        key: given.get(key, "absent")
        for key in sorted(base.keys() | given.keys())
        if key not in ignored and base.get(key, "absent") != given.get(key, "absent")
    }
