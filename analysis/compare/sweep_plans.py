"""What the sweeps of a group asked for: a seed or an arm that nobody has begun leaves no trace."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.compare.arms import CannotCompare, stripped
from analysis.compare.members import COMMANDS_FILE, Member, training_commands
from analysis.runs import find_runs
from configs.members import swept_by_experiment

_AXES = ("seed", "arm")
_NOTHING = frozenset({"null", "none", "None", ""})


def asked_for(command: str) -> dict[str, set[str]]:
    """Seeds and arms of the command line of a sweep, those of its experiment included.

    Args:
        command: As sweeps note it beside their runs.

    Returns:
        `seed` and `arm` -> values as text; an axis that the command does not name is left out.
    """
    words = dict(word.split("=", 1) for word in _words(command) if "=" in word)
    planned = {**swept_by_experiment(words.get("experiment", "")), **words}
    found = {}
    for axis in _AXES:
        values = _values(axis, str(planned[axis])) if axis in planned else set()
        if values := values - _NOTHING:
            found[axis] = values
    return found


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a line written by hand
        return []


def _values(axis: str, text: str) -> set[str]:
    """Values of one word, whether it lists, counts (`range`) or names one."""
    try:
        override = OverridesParser.create().parse_override(f"{axis}={text}")
    except HydraException:
        return set()
    if override.is_sweep_override():
        return set(override.sweep_string_iterator()) if override.is_discrete_sweep() else set()
    return {str(override.get_value_element_as_str())}


def refuse_unbegun(members: Sequence[Member]) -> None:
    """Refuse whole groups whose sweeps asked for seeds or arms that nobody has begun.

    A group of which only some runs were named is not looked at: that was a choice.

    Raises:
        CannotCompare: The message says what is missing and how to go on.
    """
    groups: dict[Path, list[Member]] = {}
    for member in members:
        place = member.path.resolve()
        if len(place.parents) > 2 and (place.parents[2] / COMMANDS_FILE).is_file():
            groups.setdefault(place.parents[2], []).append(member)
    for folder, group in groups.items():
        named = {member.path.resolve() for member in group}
        if {path.resolve() for path in find_runs(folder)} != named:
            continue
        present = {
            "seed": {str(member.identity["seed"]) for member in group},
            "arm": {stripped(member.identity) for member in group},
        }
        for command in training_commands(group):
            for axis, wanted in asked_for(command).items():
                lacking = sorted(wanted - present[axis], key=lambda text: (len(text), text))
                if lacking:
                    raise CannotCompare(
                        f"{folder.name} is half finished: nobody has begun {axis} "
                        f"{', '.join(lacking[:8])} of `{command}`; give that command again to "
                        "finish it, or compare what there is with --partial"
                    )
