"""What the preset of an arm says about it besides its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from analysis.compare.arms import Arm, stripped
from configs.compose import CONFIG_FOLDER

TUNING = "tuning"
# As `analysis.tuning_results.preset_text` writes it.
_TUNED = re.compile(r"^# [^\n]*?, tuned on (the first [^\n]*?)\.$", re.MULTILINE)


def tuning_facts(arms: Sequence[Arm]) -> dict[str, str]:
    """Arm -> what it was tuned on; arms whose presets were not tuned here are left out."""
    facts = {}
    for arm in arms:
        found = _TUNED.search(_text(stripped(arm.members[0].identity)))
        if found is not None:
            facts[arm.name] = found.group(1)
    return facts


def chosen_presets(arm: Arm, default_optimizer: str) -> tuple[str, list[str]]:
    """Presets of optimizer and methods, from the arm's preset or, without one, from its name."""
    label = stripped(arm.members[0].identity)
    if not _text(label):
        optimizer, *methods = label.split(".")
        return optimizer, methods
    chosen = _chosen(label)
    return str(chosen.get("optimizer", default_optimizer)), list(chosen.get("method") or [])


def _chosen(label: str) -> dict[str, Any]:
    """Group -> preset, of an arm and the arms that it builds on."""
    content: Mapping[str, Any] = yaml.safe_load(_text(label)) or {}
    chosen: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            chosen |= {str(key).removeprefix("override /"): value for key, value in entry.items()}
        elif entry != label and _text(str(entry)):
            chosen |= _chosen(str(entry))
    return chosen


def _text(label: str) -> str:
    file = CONFIG_FOLDER / "arm" / f"{label}.yaml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
