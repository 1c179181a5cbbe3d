"""Which runs belong to one arm, and whether the arms may be compared at all."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.compare.members import Member
from configs.run import AGENTS, EXECUTION_KEYS, METHODS
from configs.schema import flat
from networks.registry import suggestion

DEFAULT_BASELINE = "standard"
ORACLE = "fresh_oracle"
_FRESH = "fresh_"
_KEPT = "-kept"
_SEED_FOLDER = re.compile(r"\bseed_\d+\b")
_HASH = re.compile(r"-[0-9a-f]{8}$")
# Runs of one arm may differ in these: which seed, where it is filed, and how it is logged.
_NOT_LEARNING = EXECUTION_KEYS | {"seed", "group", "env.world_seed", "env.seed"}
# A fresh copy begins anew at boundaries; how long runs last has been checked, or they are cut.
_FRESHNESS = frozenset({"fresh_at_switch", "boundary", "total_steps"})
# A copy begins with new networks also where its original goes on from a checkpoint.
_BEGINNING = frozenset({"init_from", "fresh_parts"})


class CannotCompare(ValueError):
    """Runs that no honest table can hold together; the message is one sentence."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seeds.

    Attributes:
        name: Short name, unique within the comparison.
        members: Its runs, ordered by world seed and seed.
        fresh_of: Name of the arm whose regimes it learns with fresh networks; None for most.
    """

    name: str
    members: tuple[Member, ...]
    fresh_of: str | None = None

    @property
    def keys(self) -> list[tuple[int, int]]:
        """(world_seed, seed) of its runs."""
        return [member.key for member in self.members]


def learning_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings that decide what is learned, seeds and logging left out."""
    settings = {
        key: value
        for key, value in flat(config).items()
        if key not in _NOT_LEARNING and not key.startswith("log.") and value != {}
    }
    for key, default in _later_defaults(config).items():
        if settings.get(key) == default:  # runs from before the setting do not name it
            del settings[key]
    if isinstance(source := settings.get("init_from"), str):  # every seed goes on from its own
        settings["init_from"] = _SEED_FOLDER.sub("seed_*", source)
    methods = list(config.get("method") or {})
    if len(methods) > 1:
        settings["method order"] = methods
    return settings


def _later_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the settings of methods that came after the first runs, by flat key."""
    defaults: dict[str, Any] = {}
    for name, settings in (config.get("method") or {}).items():
        if settings.get("kind") not in METHODS.files():
            continue
        for item in dataclasses.fields(METHODS.get(settings["kind"]).Config):
            if item.metadata.get("later"):
                defaults[f"method.{name}.{item.name}"] = item.default
    return defaults


def begins_trained(config: Mapping[str, Any]) -> bool:
    """Whether a run goes on from a checkpoint, so that its first episodes are not untrained."""
    return config.get("init_from") is not None


def refuse_supervised(members: Sequence[Member]) -> None:
    """Refuse runs that learn from right answers: they have no returns.

    Raises:
        CannotCompare: The message says what makes their tables.
    """
    for member in members:
        kind = str(member.config["agent"].get("kind"))
        is_empty = member.condensed is None and not len(member.episodes.returns)
        if is_empty and hasattr(AGENTS.get(kind), "LEARNS_FROM_ANSWERS"):
            raise CannotCompare(
                f"{member.path} learns from right answers (agent={kind}) and has no returns to "
                "compare; make tables of such runs with python -m analysis.supervised_results"
            )


def refuse_unlike(members: Sequence[Member], partial: bool = False) -> None:
    """Refuse runs of different worlds, schedules, horizons, rewards or budgets.

    Args:
        members: The runs.
        partial: Whether they will be cut to the same steps, so that budgets may differ.

    Raises:
        CannotCompare: The message names the first difference.
    """
    first = members[0]
    expected = _world(first.config, partial)
    for member in members[1:]:
        found = _world(member.config, partial)
        for key in sorted(expected.keys() | found.keys()):
            here, there = expected.get(key, "absent"), found.get(key, "absent")
            if here != there:
                raise CannotCompare(
                    f"these runs cannot be compared: {key} is {here} in {first.path} and {there} "
                    f"in {member.path}; {_advice(key)}"
                )


def _advice(key: str) -> str:
    if key == "total_steps":
        return "name runs of one budget, or compare what all have done with --partial"
    return "name runs of one world"


def _world(config: Mapping[str, Any], partial: bool) -> dict[str, Any]:
    world = flat({"env": config["env"]})
    world = {key: value for key, value in world.items() if key not in _NOT_LEARNING}
    return world if partial else {**world, "total_steps": config.get("total_steps")}


def group_arms(members: Sequence[Member], partial: bool = False) -> list[Arm]:
    """Group runs by their settings and name the groups as briefly as possible.

    Args:
        members: The runs.
        partial: Whether they will be cut to the same steps, so that one arm may hold runs of
            several budgets.

    Raises:
        CannotCompare: The same seed occurs twice in one arm, or an arm is no fresh copy of the
            one that its name says.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        settings = learning_settings(member.config)
        if partial:
            settings.pop("total_steps", None)
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(member)
    ordered = sorted(groups.values(), key=lambda group: str(group[0].path))
    identities = [_identity(group[0]) for group in ordered]
    names = _names(identities, [_organs(group[0].config) for group in ordered])
    firsts = {name: group[0] for name, group in zip(names, ordered, strict=True)}
    fresh = []
    for name, named in zip(names, _fresh_of(identities, names), strict=True):
        same = _same_but_fresh(firsts[name].config, firsts)
        if same is None and named in firsts:
            _refuse_other_settings(name, named, firsts)
        fresh.append(named if same is None else same)
    arms = []
    for name, group, target in zip(names, ordered, fresh, strict=True):
        repeated = [key for key, n in Counter(m.key for m in group).items() if n > 1]
        if repeated:
            paths = " and ".join(str(m.path) for m in group if m.key == repeated[0])
            raise CannotCompare(f"{paths} have the same settings and seeds; name only one of them")
        arms.append(Arm(name, tuple(sorted(group, key=lambda m: m.key)), target))
    return arms


def stripped(identity: Mapping[str, Any]) -> str:
    """Name of an arm without the hash of settings that differ from its presets."""
    return _HASH.sub("", str(identity["arm"]))


def _organs(config: Mapping[str, Any]) -> str:
    """What a run from a checkpoint has kept or begun anew, at the end of its name."""
    if not begins_trained(config):
        return ""
    parts = config.get("fresh_parts") or []
    return "-new_" + "+".join(parts) if parts else _KEPT


def _names(identities: Sequence[Mapping[str, Any]], organs: Sequence[str]) -> list[str]:
    """The shortest way of naming that tells all arms apart."""
    parts = [(str(i["agent"]), str(i["network"]), stripped(i)) for i in identities]
    full = [f"{i['agent']}-{i['network']}-{i['arm']}" for i in identities]
    choices = [
        [arm for _, _, arm in parts],
        [f"{network}-{arm}" for _, network, arm in parts],
        [f"{agent}-{arm}" for agent, _, arm in parts],
        [f"{agent}-{network}-{arm}" for agent, network, arm in parts],
    ]
    choices += [[name + own for name, own in zip(c, organs, strict=True)] for c in choices]
    for names in [*choices, full]:
        if len(set(names)) == len(names):
            return names
    seen: Counter[str] = Counter()
    numbered = []
    for name in full:
        seen[name] += 1
        numbered.append(f"{name}-{seen[name]}")
    return numbered


def _identity(member: Member) -> dict[str, Any]:
    """Of one run; its arm says `fresh_` where the settings alone make it a fresh copy."""
    arm, fresh = str(member.identity["arm"]), bool(member.config.get("fresh_at_switch"))
    prefix = _FRESH if fresh and not arm.startswith(_FRESH) else ""
    return {**member.identity, "arm": prefix + arm}


def _same_but_fresh(config: Mapping[str, Any], firsts: Mapping[str, Member]) -> str | None:
    """Name of the arm with the same settings that does not begin anew at every switch."""
    if not config.get("fresh_at_switch"):
        return None
    wanted = _without_freshness(config)
    for name, member in firsts.items():
        other = member.config
        if not other.get("fresh_at_switch") and _without_freshness(other) == wanted:
            return name
    return None


def _without_freshness(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in learning_settings(config).items() if k not in _FRESHNESS}


def _refuse_other_settings(copy: str, original: str, firsts: Mapping[str, Member]) -> None:
    """Refuse a fresh copy by name that learns with other settings: it is no yardstick.

    Runs of older versions lack newer settings, which have their defaults there; a kind that is
    absent was not chosen.
    """
    mine, theirs = (_without_freshness(firsts[name].config) for name in (copy, original))
    for key in sorted((mine.keys() | theirs.keys()) - _BEGINNING):
        here, there = mine.get(key, "absent"), theirs.get(key, "absent")
        is_choice = (key in mine and key in theirs) or key.endswith(".kind")
        if is_choice and here != there:
            raise CannotCompare(
                f"arm {copy} is no fresh copy of {original}: {key} is {here} in "
                f"{firsts[copy].path} and {there} in {firsts[original].path}; train it with the "
                "same settings, or leave one of the two arms out"
            )


def _fresh_of(identities: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str | None]:
    """Name of the arm that each arm is a fresh copy of."""
    copies: list[str | None] = []
    for identity in identities:
        arm = stripped(identity)
        wanted = DEFAULT_BASELINE if arm == ORACLE else arm.removeprefix(_FRESH)
        found = None
        if arm.startswith(_FRESH):
            same = [
                name
                for other, name in zip(identities, names, strict=True)
                if stripped(other) == wanted
                and (other["agent"], other["network"]) == (identity["agent"], identity["network"])
            ]
            found = same[0] if same else wanted
        copies.append(found)
    return copies


def find_baseline(arms: Sequence[Arm], name: str | None) -> str:
    """Name of the baseline arm: with one arm only, that one; `standard` where it is there.

    Without it, runs from a checkpoint are compared with those that keep all of it.

    Raises:
        CannotCompare: There is no such arm, or it is a fresh copy of another.
    """
    names = [arm.name for arm in arms if arm.fresh_of is None]
    if not names:
        raise CannotCompare(
            "all runs are fresh copies of other arms; name the runs of those arms as well"
        )
    if name is None and len(names) == 1:
        return names[0]
    kept = [a.name for a in arms if a.name in names and _organs(a.members[0].config) == _KEPT]
    if name is None and DEFAULT_BASELINE not in names and len(kept) == 1:
        return kept[0]
    wanted = DEFAULT_BASELINE if name is None else name
    if wanted not in names:
        raise CannotCompare(
            f"there is no arm {wanted!r}{suggestion(wanted, names)}; choose the baseline with "
            f"--baseline, one of {', '.join(names)}"
        )
    return wanted


def refuse_unfinished(arms: Sequence[Arm]) -> None:
    """Refuse runs that go on, and arms that lack seeds which others have.

    Raises:
        CannotCompare: Something is missing; the message says what and how to go on.
    """
    members = [member for arm in arms for member in arm.members]
    waiting = [member for member in members if member.status == "unfinished"]
    if waiting:
        one = waiting[0]
        raise CannotCompare(
            f"{len(waiting)} of {len(members)} runs are not finished, such as {one.path} at step "
            f"{one.env_steps:,} of {one.config.get('total_steps', 0):,}; give the training command "
            "again to finish them, or compare what there is with --partial"
        )
    everyone = {key for arm in arms for key in arm.keys if arm.fresh_of is None}
    for arm in arms:
        lacking = sorted(everyone - set(arm.keys))
        if lacking and arm.fresh_of is None:
            seeds = ", ".join(str(seed) for _, seed in lacking[:8])
            raise CannotCompare(
                f"arm {arm.name} lacks seed {seeds}, which other arms have; run it, or compare "
                "the seeds that all arms share with --partial"
            )


def shared_seeds(arms: Sequence[Arm]) -> list[Arm]:
    """Keep the seeds that all arms have; fresh copies that have none of them are left out.

    Raises:
        CannotCompare: No seed is shared.
    """
    sets = [set(arm.keys) for arm in arms if arm.fresh_of is None]
    common = set.intersection(*sets)
    if not common:
        raise CannotCompare("the arms share no seed; run the same seeds in every arm")
    kept = [
        Arm(arm.name, tuple(m for m in arm.members if m.key in common), arm.fresh_of)
        for arm in arms
    ]
    return [arm for arm in kept if arm.members]  # fresh copies may have other seeds only
