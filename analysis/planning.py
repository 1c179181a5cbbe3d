"""`python train.py plan ...`: how long a command would take here, before it is given.

Every different configuration of the command trains for some seconds in a temporary place, with as
many processes side by side as the command would have, and is extrapolated. What training would
refuse before its first step is refused here, too. Seeds are taken to cost the same. For the Ant
with plain perceptrons the share of the machine's floor says how much of the time is bare physics
and matrix products (see `analysis.throughput.floors`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.canonical_json import canonical_json
from analysis.checkpoint import CheckpointError
from analysis.multitask.training import rehearsed_goals
from analysis.run_refusals import refuse_start
from analysis.throughput.processes import WorkerFailed, measure
from analysis.throughput.summary import floor_seconds, share_of_floor
from configs.compose import Composed, check_overrides, compose_run
from configs.exit_codes import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILED
from configs.members import member_words, refuse_repeated
from configs.run import RunConfig
from configs.schema import ConfigurationError, flat, load
from configs.sweep import is_multirun

TIMEOUT_SECONDS = 1_800.0
FLOOR_SECONDS = 1.0
SEEDS = frozenset({"seed", "env.seed", "env.world_seed"})
_PREFIX = "plan."


@dataclass(frozen=True)
class PlanConfig:
    """How runs are rehearsed.

    Attributes:
        seconds: Of training under the clock, for every configuration; random actions before the
            first gradient step, a warm-up and evaluations come on top.
    """

    seconds: float = 20.0

    def __post_init__(self) -> None:
        if not self.seconds > 0.0:
            raise ValueError(f"plan.seconds is {self.seconds}; give a positive number")


@dataclass(frozen=True)
class Kind:
    """Runs that differ in their seeds only.

    Attributes:
        composed: The first of them.
        runs: How many there are.
    """

    composed: Composed
    runs: int

    @property
    def name(self) -> str:
        """Directory of the runs without group and seed."""
        return "/".join(self.composed.relative_directory.split("/")[1:-1])


@dataclass(frozen=True)
class Estimate:
    """What one run costs.

    Attributes:
        steps_per_second: Environment steps of training per second, evaluations left out; None
            where the run was over before it could be told from its warm-up.
        seconds: The whole run, evaluations included.
        evaluation_share: Part of that spent on evaluations.
        floor_share: Share of the machine's floor, None where no floor is defined.
    """

    steps_per_second: float | None
    seconds: float
    evaluation_share: float
    floor_share: float | None


def plan(arguments: Sequence[str]) -> int:
    """Print how long the runs of a command line would take; returns the exit code."""
    try:
        options = _options(arguments)
        words = [word for word in arguments if not word.startswith(_PREFIX)]
        refuse_repeated(words)
        swept = is_multirun(words)
        kinds = find_kinds([word for word in words if word not in ("-m", "--multirun")], swept)
        for kind in kinds:
            refuse_start(kind.composed.config, Path(kind.composed.place))
    except (ConfigurationError, CheckpointError, ValueError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    cores = sorted(os.sched_getaffinity(0))
    total_runs = sum(kind.runs for kind in kinds)
    side_by_side = min(len(cores), total_runs) if swept else 1
    try:
        estimates = [
            _rehearsed(kind.composed, options.seconds, cores, side_by_side) for kind in kinds
        ]
    except WorkerFailed as error:
        print(f"plan: {error}", file=sys.stderr)
        return EXIT_FAILED
    _print(kinds, estimates, side_by_side, options)
    return EXIT_DONE


def _options(arguments: Sequence[str]) -> PlanConfig:
    own = [w.removeprefix(_PREFIX) for w in arguments if w.startswith(_PREFIX)]
    pairs = (word.partition("=") for word in own)
    return load(PlanConfig, {key: _number(value) for key, _, value in pairs}, "plan")


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text  # refused by the type of the setting


def find_kinds(words: Sequence[str], swept: bool) -> list[Kind]:
    """Configurations of a command line that differ in more than the seed, in its order.

    Args:
        words: Of the command line, without `-m`.
        swept: Whether `-m` was there.

    Raises:
        ConfigurationError: One of the runs could not start.
    """
    if not swept:
        return [Kind(compose_run(words), 1)]
    found: dict[bytes | str, Kind] = {}
    for member in member_words(words):
        check_overrides(member)
        composed = compose_run([*_without_threads(member), "num_threads=1"])
        key = canonical_json({k: v for k, v in flat(composed.plain).items() if k not in SEEDS})
        before = found.get(key)
        found[key] = Kind(composed, 1) if before is None else Kind(before.composed, before.runs + 1)
    return list(found.values())


def _without_threads(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("num_threads=")]


def _rehearsed(
    composed: Composed, seconds: float, cores: Sequence[int], side_by_side: int
) -> Estimate:
    """Train as many copies at once as the command would run, and extrapolate their mean."""
    worker = {
        "kind": "rehearsal",
        "words": list(composed.overrides),
        "seconds": seconds,
        "num_threads": 1,
        "gpu": getattr(composed.config.agent, "device", "cpu") != "cpu",
    }
    if side_by_side == 1:
        workers = [{**worker, "cores": list(cores), "extra_lap": False}]
    else:
        workers = [{**worker, "cores": [core], "extra_lap": True} for core in cores[:side_by_side]]
    windows = measure(workers, TIMEOUT_SECONDS)
    mean = {key: sum(w[key] for w in windows) / len(windows) for key in windows[0]}
    threads = len(cores) if side_by_side == 1 else 1
    return estimate(composed.config, mean, _floor(composed.config, cores), threads)


def estimate(
    config: RunConfig, window: Mapping[str, float], floor: float | None, num_cores: int
) -> Estimate:
    """Extrapolate what `throughput.rehearsal.measure_rehearsal` returned to a whole run.

    Args:
        config: Of the run.
        window: What was measured.
        floor: Floor seconds per environment step and core, or None.
        num_cores: Cores that the run may use.
    """
    training = window["warmup_seconds"]
    steps_per_second = None
    if window["env_steps"]:
        steps_per_second = window["env_steps"] / (window["seconds"] - window["evaluation"])
        left = max(config.total_steps - window["warmup_steps"], 0.0)
        training += left / steps_per_second
    evaluating = window["first_evaluation"] * _evaluations(config)
    share = None
    if floor is not None and steps_per_second is not None:
        share = share_of_floor(floor, steps_per_second, num_cores)
    seconds = training + evaluating
    return Estimate(steps_per_second, seconds, evaluating / seconds, share)


def _evaluations(config: RunConfig) -> float:
    """Cost of all evaluations of a run, in units of the one that was rehearsed."""
    log, every = config.log, config.log.quick_evaluation_steps
    quick = 0 if every is None else config.total_steps // every + 1
    full = int(log.final_evaluation)
    if log.stage_evaluation:
        full += config.total_steps // config.env.steps_per_task
    if not full:
        return quick
    return quick + full * config.env.num_goals / len(rehearsed_goals(config))


def _floor(config: RunConfig, cores: Sequence[int]) -> float | None:
    """Floor seconds per environment step and core, where it is defined: the published Ant."""
    env, agent, network = config.env, config.agent, config.network
    value = config.value_network or network
    is_ant = env.kind == "locomotion" and (env.robot, env.semantics) == ("ant", "published")
    if not is_ant or agent.kind != "ppo" or {network.kind, value.kind} != {"mlp"}:
        return None
    inputs = 111 if env.obs_pad_to_111 else 27
    sizes = [[inputs, *network.hidden_sizes, 8], [inputs, *value.hidden_sizes, 1]]
    each = {"num_threads": 1, "seconds": FLOOR_SECONDS, "extra_lap": True}
    physics = {**each, "kind": "physics", "run_dir": None}
    products = {
        **each,
        "kind": "products",
        "networks": sizes,
        "minibatch_size": agent.minibatch_size,
    }
    bare_physics, bare_products = (
        measure([{**kind, "cores": [core]} for core in cores]) for kind in (physics, products)
    )
    return floor_seconds(bare_physics, bare_products, agent.num_epochs / agent.minibatch_size)


def _print(
    kinds: Sequence[Kind], estimates: Sequence[Estimate], side_by_side: int, options: PlanConfig
) -> None:
    evaluates = any(one.evaluation_share for one in estimates)
    has_floor = any(one.floor_share is not None for one in estimates)
    optional = (*["of floor"] * has_floor, *["eval"] * evaluates)
    table = Table("steps", "steps/s", *optional, "one run", "runs", "what")
    for column in table.columns[:-1]:
        column.justify, column.no_wrap = "right", True
    table.columns[-1].overflow = "fold"
    for kind, one in zip(kinds, estimates, strict=True):
        table.add_row(
            f"{kind.composed.config.total_steps:,}",
            "" if one.steps_per_second is None else f"{one.steps_per_second:,.0f}",
            *["" if one.floor_share is None else f"{100 * one.floor_share:.0f}%"] * has_floor,
            *[f"{100 * one.evaluation_share:.0f}%"] * evaluates,
            duration(one.seconds),
            str(kind.runs),
            kind.name,
        )
    Console().print(table)
    total = sum(one.seconds * kind.runs for kind, one in zip(kinds, estimates, strict=True))
    longest = max(one.seconds for one in estimates)
    wall = max(total / side_by_side, longest)
    how = f", {side_by_side} at a time" if side_by_side > 1 else ""
    print(
        f"about {duration(wall)} in all{how}; extrapolated from {options.seconds:g} seconds of "
        "each, with whatever else the machine does now"
    )


def duration(seconds: float) -> str:
    """For people: `45s`, `12m`, `3h20m`."""
    if seconds < 90.0:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60.0)
    return f"{minutes}m" if minutes < 90 else f"{minutes // 60}h{minutes % 60:02d}m"
