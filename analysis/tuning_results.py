"""What tuning has found: a table, a file of all scores, and presets of the tuned arms."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.storage import temporary_name
from analysis.tuning import Selection
from analysis.tuning_space import DEFAULT, Value
from configs.schema import ConfigurationError

REPORT_FILE = "tuning.json"


@dataclass(frozen=True)
class Found:
    """One arm after tuning.

    Attributes:
        arm: Its name.
        selection: The chosen configuration and the scores of all.
        changed: Key -> value where the chosen one differs from the arm.
    """

    arm: str
    selection: Selection
    changed: Mapping[str, Value]


@dataclass(frozen=True)
class Conditions:
    """Under which conditions arms were tuned.

    Attributes:
        command: Command line.
        k: Share of the lifetime.
        early_steps: Environment steps of that share.
        seeds: Runs per configuration.
        first_world: World seed of the first of them.
    """

    command: str
    k: float
    early_steps: int
    seeds: int
    first_world: int


def table(found: list[Found], conditions: Conditions) -> str:
    """Scores of the default, of the chosen configuration and of all, one line per arm."""
    header = ("arm", "tried", "chosen", "tuned", DEFAULT, "min", "median", "max")
    lines = [
        f"\nlifetime average return over the first {conditions.early_steps:,} steps "
        f"({conditions.k:.0%}), mean of {conditions.seeds} seeds",
        "{:<24}{:>6} {:<10}{:>10}{:>10}{:>10}{:>10}{:>10}".format(*header),
    ]
    for arm in found:
        best = arm.selection
        scores = (best.scores[best.configuration], best.scores[DEFAULT], *best.sensitivity)
        numbers = "".join(f"{score:>10.1f}" for score in scores)
        lines.append(f"{arm.arm:<24}{best.num_configurations:>6} {best.configuration:<10}{numbers}")
    return "\n".join(lines)


def write_report(folder: Path, found: list[Found], conditions: Conditions) -> Path:
    """Write all scores, the number of configurations and the sensitivity of every arm."""
    arms = {}
    for arm in found:
        low, median, high = arm.selection.sensitivity
        arms[arm.arm] = {
            "chosen": arm.selection.configuration,
            "changed": dict(arm.changed),
            "num_configurations": arm.selection.num_configurations,
            "sensitivity": {"min": low, "median": median, "max": high},
            "scores": dict(arm.selection.scores),
        }
    about = {
        "command": conditions.command,
        "k": conditions.k,
        "early_steps": conditions.early_steps,
        "seeds": conditions.seeds,
        "first_world": conditions.first_world,
        "arms": arms,
    }
    file = folder / REPORT_FILE
    write_text(file, json.dumps(about, indent=1))
    return file


def write_presets(
    folder: Path, suffix: str, found: list[Found], conditions: Conditions
) -> list[Path]:
    """Write `<arm>_<suffix>.yaml` for every arm.

    Raises:
        ConfigurationError: One exists with other settings; none is written then.
    """
    texts = {folder / f"{arm.arm}_{suffix}.yaml": preset_text(arm, conditions) for arm in found}
    for file, text in texts.items():
        # A preset of the same name with other settings is somebody's result.
        if file.is_file() and yaml.safe_load(file.read_text("utf-8")) != yaml.safe_load(text):
            raise ConfigurationError(
                f"{file} exists with other settings; name another tune.suffix, or remove it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_text(file, text)
    return list(texts)


def preset_text(found: Found, conditions: Conditions) -> str:
    """The tuned arm as a preset: the arm itself, and what was chosen."""
    low, median, high = found.selection.sensitivity
    whole = ", optimistic: whole lifetimes were looked at" if conditions.k == 1.0 else ""
    lines = [
        "# @package _global_",
        f"# {found.arm}, tuned on the first {conditions.k:.0%} of the lifetime on worlds from "
        f"{conditions.first_world}{whole}.",
        f"# {found.selection.num_configurations} configurations x {conditions.seeds} seeds; chosen "
        f"{found.selection.configuration}; min, median, max {low:.1f}, {median:.1f}, {high:.1f}.",
        f"# {conditions.command}",
    ]
    nested: dict[str, Any] = {"defaults": [found.arm]}
    for key, value in found.changed.items():
        node = nested
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return "\n".join(lines) + "\n" + yaml.safe_dump(nested, sort_keys=False)


def write_text(file: Path, text: str) -> None:
    """Replace a file at once: a reader never sees half of one."""
    temporary = file.with_name(temporary_name(file.name))
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)
