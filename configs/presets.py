"""The presets of the command line: which there are, and what is written in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from configs.schema import flat

CONFIG_FOLDER = Path(__file__).resolve().parent
GROUPS = (
    "agent", "env", "context", "network", "value_network",
    "optimizer", "method", "arm", "experiment",
)  # fmt: skip
# Groups that choose among the presets of another one, as Hydra spells them.
SPELLED = {"value_network": "network@value_network"}
NO_ARM = "~arm"  # how Hydra is told to leave out the arm of an experiment


def spelled_for_hydra(word: str) -> str:
    """A word such as `value_network=mlp` the way Hydra writes it; others as they are."""
    key, equals, value = word.partition("=")
    return f"{SPELLED.get(key, key)}{equals}{value}"


def presets(group: str) -> list[str]:
    """Names of the presets of one group."""
    folder = CONFIG_FOLDER / SPELLED.get(group, group).partition("@")[0]
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


def settings_of(group: str, name: str) -> dict[str, Any]:
    """Settings that a preset fills in, by dotted name, those included that it builds on."""
    if group in ("arm", "experiment"):
        return declared(group, name)[1]
    file = CONFIG_FOLDER / SPELLED.get(group, group).partition("@")[0] / f"{name}.yaml"
    text = file.read_text(encoding="utf-8")
    package = re.match(r"# @package (\S+)", text)
    place = package[1] if package else group
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict)
    settings: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            settings |= settings_of(group, base)
    own = {str(key): value for key, value in content.items()}
    return settings | flat(own, "" if place == "_global_" else place)


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
